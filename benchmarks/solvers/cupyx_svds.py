"""`cupyx.scipy.sparse.linalg.svds` on `jvpsvd.as_cupy`, on a CUDA GPU only.

CuPy 14 finds eigenpairs of A'A by thick-restart Lanczos, to an absolute residual `tol` of that
eigenproblem. It gets tol · s₁², with s₁ from eight steps of the power method. Values below about
√eps · s₁ come back as 0, since their squares drown in rounding. Without a card it is absent.
"""

from __future__ import annotations

import torch

from benchmarks.solvers.environment import installed_version
from benchmarks.solvers.protocol import Answer, Solver, Target
from benchmarks.solvers.scipy_svds import find_largest_value
from jvpsvd import as_cupy, as_scipy


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import cupy
    from cupyx.scipy.sparse import linalg

    A = target.ours()
    largest = find_largest_value(as_scipy(A))
    U, s, Vh = linalg.svds(as_cupy(A), k=k, tol=tol * largest**2)
    order = cupy.argsort(s)[::-1]
    parts = (torch.from_dlpack(part) for part in (s[order], U[:, order], Vh[order].T))
    return Answer(*parts, True, "")


_WHEELS = ("cupy-cuda12x", "cupy-cuda13x")  # one for each CUDA

SOLVERS = (
    Solver(
        "cupyx",
        solve,
        requires=("cupy", "cupyx.scipy.sparse.linalg"),
        distribution=next(filter(installed_version, _WHEELS), None),
        environment="cupyx",
        cuda_only=True,
    ),
)
