"""`torch.linalg.svd` and `torch.svd_lowrank` of the matrix, materialised by jacrev in chunks.

`linalg.svd` decomposes the whole matrix for any k. `svd_lowrank` takes a number of iterations (2,
its default, and 7) and no tolerance, and does not report convergence. It gets q = k + 10 columns,
since its authors advise to take a few more than wanted.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.solvers.protocol import Answer, Solver, Target


def solve_all(target: Target, k: int, tol: float, budget_seconds: float) -> Answer:
    U, s, Vh = torch.linalg.svd(target.dense(), full_matrices=False)
    finite = bool(torch.isfinite(s).all())
    return Answer(s[:k], U[:, :k], Vh[:k].mT, finite, "all values")


def solve_low_rank(target: Target, k: int, tol: float, budget_seconds: float, *, n: int) -> Answer:
    matrix = target.dense()
    torch.manual_seed(0)
    U, s, V = torch.svd_lowrank(matrix, q=min(k + 10, *matrix.shape), niter=n)
    return Answer(s[:k], U[:, :k], V[:, :k], True, "has no word on convergence")


SOLVERS = (
    Solver("torch-svd", solve_all, distribution="torch", materialises=True, takes_tolerance=False),
    *(
        Solver(
            f"torch-svd-lowrank-{n}",
            functools.partial(solve_low_rank, n=n),
            distribution="torch",
            materialises=True,
            takes_tolerance=False,
        )
        for n in (2, 7)
    ),
)
