"""Random problems with values that repeat, a few tolerances apart; each follows from its seed.

Copies of a value converge one after the other. The last of them can lag so far behind that a solve
with a coarse tolerance ends before it is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.problems.random_problems import RandomProblem, little_memory


def draw_copies(seed: int) -> RandomProblem:
    """Return the problem that belongs to a seed.

    >>> draw_copies(7).about == draw_copies(7).about
    True
    """
    rng = np.random.default_rng(seed)
    n, tol = int(rng.integers(60, 260)), float(10 ** rng.uniform(-4, -1.5))
    width = int(rng.choice([1, 2, 2, 3, 4, 4, 8]))
    batch = int(rng.integers(2, 5)) if rng.random() < 0.2 else 0
    drawn = [_draw_matrix(rng, n, tol, width) for _ in range(batch or 1)]
    matrices = [matrix for matrix, _ in drawn]
    matrix = torch.from_numpy(np.stack(matrices) if batch else matrices[0])
    k = int(rng.integers(2, drawn[0][1] + 3))
    options: dict[str, Any] = {
        "k": k,
        "tol": tol,
        "method": "golub-kahan",
        "seed": int(rng.integers(0, 1 << 31)),
        "vectors": bool(rng.random() < 0.6),
        "block_size": width,
    }
    if rng.random() < 0.2:
        options["memory"] = little_memory(rng, (n, n), matrix.dtype, options, max(1, batch))
    start = "random" if rng.random() < 0.2 else "none"
    if start == "random":
        options["start"] = _draw_start(rng, matrix, k)
    return RandomProblem(seed, "copies", start, "golub-kahan", matrix, matrix, options)


def _draw_matrix(
    rng: np.random.Generator, n: int, tol: float, width: int
) -> tuple[np.ndarray[Any, Any], int]:
    """Return a diagonal matrix, and how many values its groups of copies have.

    It is as hard as any with these values, since the solver starts at random. Many groups have as
    many copies as the blocks have columns, and lie one to three tolerances apart.
    """
    values = [1.0]
    level = float(rng.uniform(0.5, 1.0))
    for _ in range(int(rng.integers(1, 5))):
        copies = int(rng.integers(1, 15))
        values += [level] * (width if rng.random() < 0.5 else copies)
        level -= tol * float(rng.uniform(1, 3))
    count = len(values)
    floor = level * float(rng.uniform(0.5, 1)) * np.sort(rng.random(n - count))[::-1]
    return np.diag(np.concatenate([values, floor])), count


def _draw_start(rng: np.random.Generator, matrix: Tensor, k: int) -> Tensor:
    shape = (*matrix.shape[:-2], matrix.shape[-1], int(rng.integers(1, k + 3)))
    return torch.from_numpy(rng.standard_normal(shape))
