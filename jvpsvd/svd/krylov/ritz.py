"""Ritz triplets of a factorisation, from the SVD of B."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.memory import bytes_of_a_step

# Orthonormality that the projected problem may lose, in units of the bases' rounding.
_UNSEEN = 1e-2
# A projected problem of at least this many rows is moved to a GPU, where it takes the memory of
# this many matrices of its size.
_ROWS_WORTH_MOVING, _PROJECTED_MATRICES = 256, 6


def ritz_triplets(bases: Factorization, k: int, only: Sequence[int] | None = None) -> Ritz:
    """Return the k leading approximate triplets, by the SVD of B in float64.

    Args:
        bases: The factorisation.
        k: Number of triplets.
        only: The matrices of a batch that are to be solved; those of others are 0. None: all.
    """
    loss = _UNSEEN * torch.finfo(bases.V.dtype).eps
    B, R = (bases.B, bases.R) if only is None else (bases.B[only], bases.R[only])
    left, s, right = leading_svd(B, min(k, bases.size), loss, _device_of_projected(bases))
    found = Ritz(s, left, right.mT, torch.linalg.vector_norm(R @ left, dim=-2))
    return found if only is None else found.spread(only, len(bases.B))


def _device_of_projected(bases: Factorization) -> torch.device:
    """Return the GPU if the projected problem is large and fits into a step's workspace there."""
    m, n = bases.operator.shape[-2:]
    both = (m + n) * bases.operator.dtype.itemsize
    width = bases.block_size
    free = bytes_of_a_step(width, both) - 2 * width * both  # all but the current and the next block
    fits = _PROJECTED_MATRICES * 8 * bases.size**2 <= free
    moves = fits and bases.size >= _ROWS_WORTH_MOVING
    return bases.V.device if moves else bases.B.device
