"""Ritz triplets of a factorisation: from the SVD of B, and with measured residuals."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.kernels.norms import COLUMNS_AT_ONCE, column_norms
from jvpsvd.svd.kernels.orthogonalize import linear_combination
from jvpsvd.svd.kernels.zeros import convert_coefficients
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


def measured_triplets(
    bases: Factorization, ritz: Ritz, matrix: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return (s, residuals, U, V) of Ritz triplets, for one matrix of a batch or for all.

    Residuals come from the products taken: A' U was kept, and for A V its measured distance from U
    B.
    """
    V, AtU, U, defect = bases.V, bases.AtU, bases.left.U, bases.defect
    if matrix is not None:
        ritz = ritz.select(matrix)
        V, AtU, defect = V[matrix], AtU[matrix], defect[matrix]
        U = None if U is None else U[matrix]
    dtype, device = V.dtype, V.device
    s = ritz.s.to(dtype=dtype, device=device)
    left = convert_coefficients(ritz.left, V)
    v = linear_combination(V, ritz.right)
    u = None if U is None else linear_combination(U, left)
    residuals = torch.empty_like(s)
    rounding = defect[..., None, :] @ ritz.right.abs()
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        norm_v = column_norms(v[..., part])
        norm_u = torch.ones_like(norm_v) if u is None else column_norms(u[..., part])
        adjoint = linear_combination(AtU, left[..., part])
        adjoint.div_(norm_u.to(dtype)[..., None, :])
        adjoint.sub_(v[..., part] * (s[..., part] / norm_v.to(dtype))[..., None, :])
        # A v = U B y + D y. Besides |D y|, a norm of u or v that is not 1 leaves a part of s u.
        forward = rounding[..., 0, part].to(device) / norm_v
        forward += s[..., part].double() * (norm_u - norm_v).abs() / norm_v
        residuals[..., part] = torch.maximum(forward, column_norms(adjoint)).to(dtype)
    return s, residuals, u, v


def _device_of_projected(bases: Factorization) -> torch.device:
    """Return the GPU if the projected problem is large and fits into a step's workspace there."""
    m, n = bases.operator.shape[-2:]
    both = (m + n) * bases.operator.dtype.itemsize
    width = bases.block_size
    free = bytes_of_a_step(width, both) - 2 * width * both  # all but the current and the next block
    fits = _PROJECTED_MATRICES * 8 * bases.size**2 <= free
    moves = fits and bases.size >= _ROWS_WORTH_MOVING
    return bases.V.device if moves else bases.B.device
