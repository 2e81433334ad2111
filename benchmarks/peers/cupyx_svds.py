"""`cupyx.scipy.sparse.linalg.svds` on `jvpsvd.as_cupy`, on a CUDA GPU only.

CuPy 14 finds eigenpairs of A'A by thick-restart Lanczos, to an absolute residual `tol` of that
eigenproblem: tol · s₁² is asked for, with s₁ from eight steps of the power method. Values below
about √eps · s₁ come back as 0, as squares of them drown. Without a card it is absent.
"""

from __future__ import annotations

import math

import torch

from benchmarks.peers.protocol import Answer, Peer, Target
from jvpsvd import LinearOperator, as_cupy

_POWER_STEPS = 8


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import cupy
    from cupyx.scipy.sparse import linalg

    A = target.ours()
    largest = largest_value(A)
    U, s, Vh = linalg.svds(as_cupy(A), k=k, tol=tol * largest**2)
    order = cupy.argsort(s)[::-1]
    parts = (torch.from_dlpack(part) for part in (s[order], U[:, order], Vh[order].T))
    return Answer(*parts, True, "")


def largest_value(A: LinearOperator) -> float:
    """Return s₁ from below, by a few steps of the power method."""
    v = torch.ones(A.shape[1], 1, dtype=A.dtype, device=A.device)
    length = 0.0
    for _ in range(_POWER_STEPS):
        w = A.matmat(v / torch.linalg.vector_norm(v))
        length = float(torch.linalg.vector_norm(w, dtype=torch.float64))
        if not 0 < length < math.inf:
            break
        v = A.rmatmat(w / length)
    return length


PEERS = (
    Peer(
        "cupyx",
        solve,
        requires=("cupy", "cupyx.scipy.sparse.linalg"),
        distribution="cupy-cuda12x",
        cuda_only=True,
    ),
)
