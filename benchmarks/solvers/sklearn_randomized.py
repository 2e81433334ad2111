"""`sklearn.utils.extmath.randomized_svd`, with 2 and 7 power iterations.

scikit-learn 1.9 passes its argument through `check_array`, which refuses a LinearOperator, so the
matrix is materialised first, by jacrev. It takes no tolerance and does not report convergence.
"""

from __future__ import annotations

import functools

import torch

from benchmarks.solvers.protocol import Answer, Solver, Target


def solve(target: Target, k: int, tol: float, budget_seconds: float, *, n_iter: int) -> Answer:
    from sklearn.utils.extmath import randomized_svd

    U, s, Vh = randomized_svd(target.dense().numpy(), k, n_iter=n_iter, random_state=0)
    answer = (torch.from_numpy(part.copy()) for part in (s, U, Vh.T))
    return Answer(*answer, True, "has no word on convergence")


SOLVERS = tuple(
    Solver(
        f"sklearn-randomized-{n_iter}",
        functools.partial(solve, n_iter=n_iter),
        requires=("sklearn.utils.extmath",),
        distribution="scikit-learn",
        materialises=True,
        takes_tolerance=False,
    )
    for n_iter in (2, 7)
)
