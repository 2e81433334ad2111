"""PRIMME's `svds`: a hybrid of Davidson methods for singular triplets (Wu, Romero & Stathopoulos).

Its source distribution (3.2.3) builds where libblas and liblapack with headers for the linker are
there (Debian: libopenblas-dev); without them the build ends in "cannot find -llapack". `tol` is the
residual relative to ‖A‖, at most √2 times what is required here; PRIMME raises if it misses it.
By default it takes one vector at a time; "primme-block" takes eight.
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from benchmarks.solvers.protocol import Answer, Solver, Target, UnableError


def solve(target: Target, k: int, tol: float, budget_seconds: float, *, block: int) -> Answer:
    import primme

    if k >= min(target.shape):
        raise UnableError("takes k < min(m, n) only")
    U, s, Vh, stats = primme.svds(
        target.by_hand(), k, tol=tol, maxBlockSize=block, return_stats=True
    )
    parts = (torch.from_numpy(np.array(part)) for part in (s, U, Vh.T))
    return Answer(*parts, True, f"{stats['numMatvecs']} products by its own count")


SOLVERS = tuple(
    Solver(
        name,
        functools.partial(solve, block=block),
        requires=("primme",),
        distribution="primme",
        environment="primme",
    )
    for name, block in (("primme", 1), ("primme-block", 8))
)
