"""Rank-revealing orthogonalisation of a block against an orthonormal basis.

A Krylov block loses rank when the space is exhausted, when singular values repeat, and when only
rounding is left of a column. If such columns were normalised, the basis would lose its
orthonormality and spurious singular values would appear. So directions shorter than a floor get the
coefficient 0 and are replaced by random ones, orthogonal to all others. Blocks may be batched, one
for each matrix; the new block has the same width for all matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import columns
from jvpsvd.svd.kernels.dense import add_lower_gram, dense_svd
from jvpsvd.svd.kernels.random_numbers import Generators, draw_normal
from jvpsvd.svd.kernels.row_blocked import project, subtract_projection
from jvpsvd.svd.kernels.zeros import convert_coefficients, with_zeros

# When a block needs no further pass. Two passes are the rule; the largest number is a guess.
_MAX_PASSES = 5
# A column that keeps less than this share of its norm under a projection was mostly rounding: a
# guess.
_KEPT_SHARE = 0.5
# If all coefficients of unit columns are smaller than this, one projection more makes them
# orthogonal to working precision: a cautious guess.
_SMALL_COEFFICIENT = 0.1
# `_factor` makes float32 columns orthonormal to rounding if the smallest singular value of W is at
# least this share of the largest: its square is then right to 2e-16 / 1e-8 = 2e-8.
_WELL_CONDITIONED = 1e-4
# Columns that are orthonormalised at once, which bounds temporary tensors: a guess.
_COLUMNS_AT_ONCE = 64
# Rows that are converted to float64 at once, on a CPU so few that they stay in its caches, and the
# kernel need not zero the pages of temporary tensors each time. On a GPU the number of calls
# counts. Both are guesses.
_ROWS_AT_ONCE, _ROWS_ON_GPU = 1 << 13, 1 << 16
# `orthonormality` adds at most so many products in the dtype of the basis, and the rest in float64:
# a guess.
_ROWS_SUMMED = 1 << 13


@dataclass(frozen=True)
class OrthogonalBlock:
    """W = basis · coefficients + Q R, up to columns no longer than the floor."""

    Q: Tensor
    """(N, w) orthonormal, and orthogonal to the basis; w = min(b, N − s)."""
    coefficients: Tensor
    """(s, b) coefficients of W in the basis, float64."""
    R: Tensor
    """(w, b) coefficients of W in Q, float64; rows beyond the rank are 0."""
    rank: Tensor
    """Number of columns of Q that W spans; the others are random, or 0 if `full` is false."""


def orthogonalize_block(
    basis: Tensor,
    W: Tensor,
    *,
    floor: float | Tensor,
    generator: Generators,
    window: int | None = None,
    full: bool = True,
) -> OrthogonalBlock:
    """Orthogonalise W (N, b) against an orthonormal basis (N, s), and orthonormalise it.

    Basis and W may both be batches, (B, N, s) and (B, N, b); ranks may differ between matrices.

    Args:
        basis: Orthonormal columns; s may be 0.
        W: The block, in the same dtype and on the same device.
        floor: Norm below which a direction of W counts as rounding; one per matrix.
        generator: CPU generator of the random columns, which all matrices of a batch share; or
            one for each matrix.
        window: Number of trailing basis columns to which W need not be orthogonal; to all others it
            is, up to rounding. None: all columns.
        full: Whether to orthogonalise against the columns before the window too, and to replace
            lost directions. If not, `coefficients` has rows for the window only.

    >>> e1, e2 = torch.eye(3)[:, :1], torch.eye(3)[:, 1:2]
    >>> W = torch.cat([2 * e1 + 3 * e2, e1], dim=1)
    >>> generator = torch.Generator().manual_seed(0)
    >>> new = orthogonalize_block(e1, W, floor=1e-6, generator=generator)
    >>> int(new.rank), new.Q.shape, bool((e1.T @ new.Q).abs().max() < 1e-6)
    (1, torch.Size([3, 2]), True)
    """
    size, taken = basis.shape[-2:]
    width = min(W.shape[-1], size - taken)
    first = 0 if window is None else taken - window
    part = basis[..., first:]
    along = project(part, W)
    coefficients = cpu_later(along.double())  # `_factor` waits
    Q, R, rank = _factor(subtract_projection(W, part, along), floor)
    if full and first > 0:
        coefficients = with_zeros(coefficients, above=first)
        part = basis
    for _ in range(_MAX_PASSES):
        if not rank.any():
            break
        along = project(part, Q)
        Q = subtract_projection(Q, part, along)
        again = along.double().cpu()
        coefficients = coefficients + again @ R
        if _stays_orthonormal(R, again, W.dtype):
            break
        Q, change, left = _factor(Q, _KEPT_SHARE)
        R = change @ R
        settled = torch.equal(left, rank) and _largest(again) < _SMALL_COEFFICIENT
        rank = left
        if settled:
            break
    if width < W.shape[-1]:
        Q, R, rank = Q[..., :width], R[..., :width, :], rank.clamp_max(width)
    if full and int(rank.min()) < width:
        Q = _refill(basis, Q, rank, generator)
    return OrthogonalBlock(columns(Q), coefficients, R, rank)


def linear_combination(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Return basis · C, column-major, for a basis (N, s) and C (s, j) of any dtype.

    The product is computed transposed, because BLAS is slow for long results of few columns.

    >>> linear_combination(torch.eye(2), torch.tensor([[2.0], [1.0]]).double()).T
    tensor([[2., 1.]])
    """
    return (convert_coefficients(coefficients, basis).mT @ basis.mT).mT


def cpu_later(matrix: Tensor) -> Tensor:
    """Return a copy on the CPU that is not there before the next wait for a GPU.

    A GPU stands still while it is waited for, so small results that are not read at once are
    fetched without a wait.

    >>> cpu_later(torch.eye(1))
    tensor([[1.]])
    """
    return matrix.to("cpu", non_blocking=True)


def _refill(basis: Tensor, Q: Tensor, rank: Tensor, generator: Generators) -> Tensor:
    """Return Q with its zero columns replaced by random ones, orthogonal to all others."""
    width = Q.shape[-1]
    missing = width - int(rank.min())
    random = random_columns(basis, missing, generator, block=Q)
    position = torch.arange(width) - rank[..., None]
    index = position.clamp(0, missing - 1).to(Q.device)
    fill = random.gather(-1, index[..., None, :].expand(Q.shape))
    return torch.where((position < 0).to(Q.device)[..., None, :], Q, fill)


def random_columns(
    basis: Tensor, width: int, generator: Generators, *, block: Tensor | None = None
) -> Tensor:
    """Return `width` random orthonormal columns orthogonal to the basis (and to `block`).

    Without a basis their span is uniformly distributed.

    >>> random_columns(torch.empty(4, 0), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    size = basis.shape[-2]
    rows = draw_normal(generator, width, size, dtype=basis.dtype)
    Q = rows.to(basis.device).mT.expand(*basis.shape[:-1], width)
    others = [basis] if block is None else [basis, block]
    for _ in range(_MAX_PASSES):
        largest = 0.0
        for other in others:
            along = project(other, Q)
            Q = subtract_projection(Q, other, along)
            largest = max(largest, _largest(along))
        Q = _factor(Q, 0.0)[0]
        if largest < _SMALL_COEFFICIENT:
            break
    return Q


def orthonormal_images(images: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal U (N, k) with images ≈ U diag(s), for images of singular vectors.

    Where s is large, dividing by s would suffice. Where s is only rounding, random columns complete
    U. N must be at least k.

    >>> s = torch.tensor([2.0, 0.0])
    >>> images = torch.diag(s)
    >>> U = orthonormal_images(images, s, torch.Generator().manual_seed(0))
    >>> torch.allclose(U[:, 0], torch.tensor([1.0, 0.0])), bool(orthonormality(U) < 1e-6)
    (True, True)
    """
    floor = torch.finfo(images.dtype).eps * s[..., 0].double().cpu()
    least = torch.where(floor > 0, floor, 1.0)[..., None]
    U = columns(torch.empty_like(images))
    for start in range(0, images.shape[-1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        new = orthogonalize_block(
            U[..., :start], images[..., part], floor=floor, generator=generator
        )
        scale = torch.maximum(s[..., part].double().cpu(), least)
        # The order is that of s, so that columns of rounding noise cannot change those before them.
        Q, R = torch.linalg.qr(new.R / scale[..., None, :])
        turned = torch.where(R.diagonal(dim1=-2, dim2=-1)[..., None, :] < 0, -Q, Q)
        U[..., part] = new.Q @ turned.to(dtype=U.dtype, device=U.device)
    return U


def restore_orthonormality(V: Tensor) -> float:
    """Make nearly orthonormal columns V (N, k) orthonormal, in place and in their order.

    A column changes only along itself and those before it.

    Returns:
        The largest entry of |V'V − I| before. From 1 / k on, V stays as it is.

    >>> V = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.0, 0.0]]).double()
    >>> f"{restore_orthonormality(V):.2g}", V.T[1].round(decimals=9).tolist()
    ('0.1', [0.0, 1.0, 0.0])
    """
    gram = V.mT @ V
    defect = _largest(gram - torch.eye(len(gram), dtype=V.dtype, device=V.device))
    if defect < 1 / max(1, len(gram)):  # then V'V is positive definite
        R = torch.linalg.cholesky(gram, upper=True)
        for part in _parts(V):
            V[part] = torch.linalg.solve_triangular(R, V[part], upper=True, left=False)
    return defect


def orthonormality(basis: Tensor) -> Tensor:
    """Return the largest entry of |Q'Q − I| for a basis Q (N, s), or for each basis of a batch.

    Short parts are added up in float64. BLAS may sum a whole column in float32, and was off by 2e-3
    for ten columns of 1e7 entries.

    >>> orthonormality(torch.eye(3)[:, :2])
    tensor(0.)
    """
    size = basis.shape[-1]
    if not size:
        return basis.new_zeros(())
    defect = -torch.eye(size, dtype=torch.float64, device=basis.device)
    defect = defect.expand(*basis.shape[:-2], size, size).clone()
    for start in range(0, basis.shape[-2], _ROWS_SUMMED):
        add_lower_gram(defect, basis[..., start : start + _ROWS_SUMMED, :])
    return defect.tril_().abs_().amax(dim=(-2, -1)).to(basis.dtype)


def _factor(W: Tensor, floor: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (Q, C, r) with W = Q C up to singular values ≤ floor, and the number r above it.

    Q (N, p), p = min(b, N), has r orthonormal columns, then zero columns; C (p, b) has r rows, then
    zero rows.

    Small factors are computed on the CPU: a GPU is waited for once, and is slow at small matrices.

    In float32 the factors come from a float64 Gram matrix, which resolves singular values down to
    1e-8 of the largest, below float32 rounding. (LAPACK's float32 QR left norms 1e-4 away from 1
    for the long vectors of image networks, which have few large entries.) Dividing by a small
    singular value amplifies rounding; the next pass of `orthogonalize_block` removes it.
    """
    if W.dtype == torch.float64:
        Q, R = torch.linalg.qr(W)
        R = R.cpu()
        X, s, Yh = dense_svd(R)
        kept = s > _as_column(floor, s)
        if bool(kept.all()):
            return Q, R, kept.sum(-1)
        Q = linear_combination(Q, X * kept[..., None, :])
        return Q, (s * kept)[..., None] * Yh, kept.sum(-1)
    squares, Y = torch.linalg.eigh(_gram64(W).cpu())
    width = min(W.shape[-2:])
    s = squares.flip(-1)[..., :width].clamp_min(0).sqrt()
    Y = Y.flip(-1)[..., :width]
    kept = s > _as_column(floor, s)
    Q = W.new_empty(*W.shape[:-2], width, W.shape[-2]).mT
    scaled = Y * torch.where(kept, 1 / s, 0.0)[..., None, :]
    scaled = scaled.to(W.device, non_blocking=True)
    for part in _parts(W):
        Q[..., part, :] = (scaled.mT @ W[..., part, :].mT.double()).mT
    return Q, (s * kept)[..., None] * Y.mT, kept.sum(-1)


def _gram64(W: Tensor) -> Tensor:
    """Return W'W in float64, without a float64 copy of the whole W."""
    b = W.shape[-1]
    total = torch.zeros(*W.shape[:-2], b, b, dtype=torch.float64, device=W.device)
    for part in _parts(W):
        rows = W[..., part, :].mT.double()
        total += rows @ rows.mT
    return total


def _parts(W: Tensor) -> list[slice]:
    rows = _ROWS_ON_GPU if W.is_cuda else _ROWS_AT_ONCE
    return [slice(i, i + rows) for i in range(0, W.shape[-2], rows)]


def _as_column(floor: float | Tensor, like: Tensor) -> float | Tensor:
    return floor.to(like.device)[..., None] if isinstance(floor, Tensor) else floor


def _stays_orthonormal(R: Tensor, coefficients: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether a block from `_factor` stays orthonormal when these coefficients are removed.

    Its norms and inner products change by the squares of the coefficients.
    """
    removed = float(torch.linalg.vector_norm(coefficients, dim=(-2, -1)).max())
    if removed**2 >= torch.finfo(dtype).eps / 4:
        return False
    if dtype == torch.float64:
        return True
    norms = torch.linalg.vector_norm(R, dim=-1)
    least = torch.where(norms > 0, norms, math.inf).amin(-1)
    return bool((least > _WELL_CONDITIONED * norms.amax(-1)).all())


def _largest(matrix: Tensor) -> float:
    return float(matrix.abs().max()) if matrix.numel() else 0.0
