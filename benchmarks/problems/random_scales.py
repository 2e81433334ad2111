"""Random problems whose entries lie anywhere in the range of their dtype, and mostly at its ends.

Products then overflow, or vanish although the matrix does not. Each follows from its seed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse
import torch

from benchmarks.problems.random_problems import RandomProblem, draw_problem


def draw_scales(seed: int) -> RandomProblem:
    """Return the problem that belongs to a seed.

    >>> draw_scales(7).about == draw_scales(7).about
    True
    """
    problem, rng = draw_problem(seed), np.random.default_rng((seed, 1))
    kind = torch.finfo(problem.matrix.dtype)
    ends = np.log10(kind.smallest_normal * kind.eps), np.log10(kind.max)
    width = 0.1 * (ends[1] - ends[0])
    low, high = [(ends[1] - width, ends[1]), (ends[0], ends[0] + 2 * width), ends][rng.integers(3)]
    matrix = problem.matrix.double()
    matrix = matrix / (matrix.abs().max() or 1.0)
    power = rng.uniform(low, high)
    # In two steps, since the smallest numbers are no double's power of ten.
    scaled = matrix * 10.0 ** (power / 2) * 10.0 ** (power / 2)
    scaled = scaled.clamp(-kind.max, kind.max).to(problem.matrix.dtype)
    given: object = scaled
    if isinstance(problem.given, np.ndarray):
        given = scaled.numpy()
    elif scipy.sparse.issparse(problem.given):
        given = scipy.sparse.csr_array(scaled.numpy())
    return replace(problem, matrix=scaled, given=given)
