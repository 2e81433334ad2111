"""How well an operator itself is defined: how far rounding of its point moves it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.norms import column_norms

# Kinks that rounding decides are few: one perturbed point often meets none of them. Three met no
# more of what float64 moves than two, on 35 photos (benchmarks/README.md).
_PERTURBED_POINTS = 2


def change_by_rounding(
    A: LinearOperator, combinations: Tensor, images: Tensor, k: int, seed: int
) -> Tensor:
    r"""Estimate ‖(Ã − A) V‖_F, the most over a few Ã: A at points moved by rounding.

    The Jacobian of a network with kinks jumps where rounding decides the side of one. Then triplets
    of A are no triplets of Ã, however small their residuals: by Weyl's inequality values move by at
    most the norm of Ã − A, and residuals grow by as much. For random signs ω, |ω| = 1, of the k
    columns of V, k |(Ã − A) V ω|² has the mean ‖(Ã − A) V‖²_F (Hutchinson).

    Args:
        A: The operator, or a batch.
        combinations: V ω for a few ω, of shape (…, n, b).
        images: A V ω, fresh products.
        k: How many columns V has.
        seed: Of the perturbations.

    Returns:
        In the units of s, one of each matrix; NaN where A depends on no point.

    >>> from jvpsvd.operators import JacobianOperator
    >>> V = torch.eye(2)
    >>> J = JacobianOperator(lambda x: (x - 1).relu(), torch.tensor([1.0, 5.0]))  # at a kink
    >>> change_by_rounding(J, V, J @ V, 2, seed=0) > 0.5
    tensor([True])
    """
    count = A.batch[0] if A.batch else 1
    worst = torch.full((count,), math.nan, dtype=torch.float64)
    for number in range(_PERTURBED_POINTS):
        perturbed = _perturbed(A, seed + number)
        if perturbed is None:
            break
        change = column_norms(perturbed.matmat(combinations) - images).double()
        norm = (k * change.square().mean(-1)).sqrt().reshape(-1).cpu()
        worst = torch.fmax(worst, norm)
    return worst


def _perturbed(A: LinearOperator, seed: int) -> LinearOperator | None:
    try:
        return A.perturbed_by_rounding(seed)
    except (MemoryError, torch.OutOfMemoryError):
        return None  # the activations of a second point do not fit beside those of the first
