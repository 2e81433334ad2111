"""`cupyx.scipy.sparse.linalg.svds` on `jvpsvd.as_cupy`, on a CUDA GPU only.

CuPy 14 finds eigenpairs of A'A by thick-restart Lanczos; `tol` is the residual of the eigenproblem,
relative to its largest value. Without a card it is absent.
"""

from __future__ import annotations

import torch

from benchmarks.peers.protocol import Answer, Peer, Target
from jvpsvd import as_cupy


def solve(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    import cupy
    from cupyx.scipy.sparse import linalg

    U, s, Vh = linalg.svds(as_cupy(target.ours()), k=k, tol=tol)
    order = cupy.argsort(s)[::-1]
    parts = (torch.from_dlpack(part) for part in (s[order], U[:, order], Vh[order].T))
    return Answer(*parts, True, "")


PEERS = (
    Peer(
        "cupyx",
        solve,
        requires=("cupy", "cupyx.scipy.sparse.linalg"),
        distribution="cupy-cuda12x",
        cuda_only=True,
    ),
)
