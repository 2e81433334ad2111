"""Random problems as sparse matrices in float64, most of which are solved without U.

Each follows from its seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse

from benchmarks.problems.random_copies import draw_copies
from benchmarks.problems.random_problems import RandomProblem, draw_problem

# Below it U is formed for every matrix.
_LEAST_TOL = 1e-10


def draw_sparse(seed: int) -> RandomProblem:
    """Return the problem that belongs to a seed: one of all kinds, or one with copies of values.

    >>> draw_sparse(7).about == draw_sparse(7).about
    True
    """
    rng = np.random.default_rng((seed, 2))
    problem = (draw_copies if rng.random() < 0.5 else draw_problem)(seed)
    matrix = problem.matrix.double()
    options = {**problem.options, "method": "golub-kahan"}
    options["tol"] = max(options["tol"], _LEAST_TOL)
    for search in ("energy", "tail"):
        options.pop(search, None)
    start = problem.start
    if matrix.ndim == 3 or problem.matrix.dtype != matrix.dtype:
        start = "none"
        options.pop("start", None)
        matrix = matrix.reshape(-1, *matrix.shape[-2:])[0]
    given = scipy.sparse.csr_array(matrix.numpy())
    return replace(
        problem, start=start, method="golub-kahan", matrix=matrix, given=given, options=options
    )
