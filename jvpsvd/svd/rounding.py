"""How well an operator is defined: how much it changes when rounding moves its point."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from jvpsvd.arguments import LARGEST_SEED
from jvpsvd.operators import LinearOperator
from jvpsvd.operators.function.failures import first_line
from jvpsvd.svd.kernels.norms import column_norms

logger = logging.getLogger(__name__)

# Few kinks lie within rounding of a point, and one perturbed point often crosses none of them. On
# 35 photos, three points found hardly more of the change between float32 and float64 than two did
# (a prototype: benchmarks/README.md).
_PERTURBED_POINTS = 2


def change_by_rounding(
    A: LinearOperator, combinations: Tensor, images: Tensor, k: int, seed: int
) -> Tensor:
    r"""Estimate the largest ‖(Ã − A) V‖_F over a few Ã: A at points moved by rounding.

    At a kink of a network, rounding decides on which side the point lies, and the Jacobian jumps.
    Triplets of A are then no triplets of Ã, however small their residuals are: values move by at
    most ‖Ã − A‖₂ (Weyl's inequality), and residuals grow by as much. For random signs ω of k
    entries, scaled to |ω| = 1, the mean of k |(Ã − A) V ω|² is ‖(Ã − A) V‖²_F (Hutchinson).

    Args:
        A: The operator, or a batch.
        combinations: V ω for a few ω, of shape (…, n, b).
        images: A V ω, fresh products.
        k: How many columns V has.
        seed: Seed of the perturbations.

    Returns:
        One estimate for each matrix, in the units of s; NaN where A depends on no point, or a
        second point does not fit into memory.

    >>> from jvpsvd.operators import JacobianOperator
    >>> V = torch.eye(2)
    >>> J = JacobianOperator(lambda x: (x - 1).relu(), torch.tensor([1.0, 5.0]))  # at a kink
    >>> change_by_rounding(J, V, J @ V, 2, seed=0) > 0.5
    tensor([True])
    """
    count = A.batch[0] if A.batch else 1
    worst = torch.full((count,), math.nan, dtype=torch.float64)
    seeds = [(seed + i) % (LARGEST_SEED + 1) for i in range(_PERTURBED_POINTS)]
    together = A.changed_products(combinations, images, seeds)
    for change in _one_by_one(A, combinations, images, seeds) if together is None else together:
        norm = (k * column_norms(change).square().mean(-1)).sqrt().reshape(-1).cpu()
        worst = torch.fmax(worst, norm)
    return worst


def _one_by_one(
    A: LinearOperator, combinations: Tensor, images: Tensor, seeds: Sequence[int]
) -> Iterator[Tensor]:
    for seed in seeds:
        perturbed = _perturbed(A, seed)
        if perturbed is None:
            return
        yield perturbed.matmat(combinations) - images


def _perturbed(A: LinearOperator, seed: int) -> LinearOperator | None:
    try:
        return A.perturbed_by_rounding(seed)
    except (MemoryError, torch.OutOfMemoryError) as error:  # the activations of a second point
        logger.info("rounding of the point is not measured: %s", first_line(error))
        return None
