"""Ritz triplets of a factorisation: from the SVD of its projected operator, and measured."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.svd.kernels.dense import leading_svd
from jvpsvd.svd.kernels.norms import COLUMNS_AT_ONCE, column_norms
from jvpsvd.svd.kernels.orthogonalize import linear_combination
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.memory import bytes_of_a_step

# What the projected problem may lose, in units of the rounding of the bases.
_UNSEEN = 1e-2
# Rows from which on the projected problem is worth the way to a GPU, and what it takes there, in
# matrices of its size.
_ROWS_WORTH_MOVING, _PROJECTED_COPIES = 256, 6


def ritz_triplets(bases: Factorization, k: int) -> Ritz:
    """Return the k leading approximate triplets, by the SVD of B in float64."""
    loss = _UNSEEN * torch.finfo(bases.V.dtype).eps
    left, s, right = leading_svd(bases.B, min(k, bases.size), loss, _device_of_projected(bases))
    return Ritz(s, left, right.mT, torch.linalg.vector_norm(bases.R @ left, dim=-2))


def measured_triplets(
    bases: Factorization, ritz: Ritz, matrix: int | None = None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Return (s, residuals, U, V) of Ritz triplets, of one matrix of a batch or of all.

    Residuals are measured with the products that were kept: A' U as it was multiplied, and of A V
    its measured distance from U B.
    """
    V, AtU, U, defect = bases.V, bases.AtU, bases.left.U, bases.defect
    if matrix is not None:
        ritz = ritz.select(matrix)
        V, AtU, defect = V[matrix], AtU[matrix], defect[matrix]
        U = None if U is None else U[matrix]
    dtype, device = V.dtype, V.device
    s, left = (part.to(dtype=dtype, device=device) for part in (ritz.s, ritz.left))
    v = linear_combination(V, ritz.right)
    u = None if U is None else linear_combination(U, ritz.left)
    residuals = torch.empty_like(s)
    rounding = defect[..., None, :] @ ritz.right.abs()
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        norm_v = column_norms(v[..., part])
        norm_u = torch.ones_like(norm_v) if u is None else column_norms(u[..., part])
        adjoint = linear_combination(AtU, left[..., part])
        adjoint.div_(norm_u.to(dtype)[..., None, :])
        adjoint.sub_(v[..., part] * (s[..., part] / norm_v.to(dtype))[..., None, :])
        # A v = U B y + D y; beside |D y|, vectors of another norm than 1 leave a part of s u.
        forward = rounding[..., 0, part].to(device) / norm_v
        forward += s[..., part].double() * (norm_u - norm_v).abs() / norm_v
        residuals[..., part] = torch.maximum(forward, column_norms(adjoint)).to(dtype)
    return s, residuals, u, v


def _device_of_projected(bases: Factorization) -> torch.device:
    """Return the GPU for a large projected problem that fits into what a step takes there."""
    m, n = bases.operator.shape[-2:]
    both = (m + n) * bases.operator.dtype.itemsize
    width = bases.block_size
    free = bytes_of_a_step(width, both) - 2 * width * both  # beside the current and the next block
    fits = _PROJECTED_COPIES * 8 * bases.size**2 <= free
    moves = fits and bases.size >= _ROWS_WORTH_MOVING
    return bases.V.device if moves else bases.B.device
