"""Rank-revealing extension of an orthonormal basis by a block.

A Krylov block loses rank when the space is exhausted, when singular values repeat, and when what is
left of it is rounding noise. Normalising such columns as if they were signal makes the basis lose
its orthonormality, and singular values appear that are not there. Here, directions below a floor
are dropped with coefficient 0 and replaced by random ones, orthogonal to everything. Blocks may be
batches, one for each of several matrices; the width of the new block is the same for all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import columns
from jvpsvd.svd.kernels.dense import add_lower_gram, dense_svd
from jvpsvd.svd.kernels.row_blocked import overlap, squared, without

_PASSES = 5
# A column that keeps less than this share of its length under a projection was mostly rounding.
_KEPT_SHARE = 0.5
# Below this overlap one more projection brings a unit column to working orthogonality.
_SMALL_OVERLAP = 0.1
# `_factor` makes columns orthonormal to rounding where the lengths of W are as near as that.
_WELL_CONDITIONED = 1e-4
_COLUMNS_AT_ONCE = 64
_ROWS_AT_ONCE = 1 << 16
_ROWS_SUMMED = 1 << 13


@dataclass(frozen=True)
class Extension:
    """W = basis · inner + block · outer, up to columns no longer than the floor."""

    block: Tensor
    """(N, w) orthonormal and orthogonal to the basis; w = min(b, N − s)."""
    inner: Tensor
    """(s, b) coefficients along the basis, float64."""
    outer: Tensor
    """(w, b) coefficients along the block, float64; rows beyond the rank are 0."""
    rank: Tensor
    """Columns of the block that W spans; the other w − rank are random, or 0 without refill."""


def extend(
    basis: Tensor,
    W: Tensor,
    *,
    floor: float | Tensor,
    generator: torch.Generator,
    near: int | None = None,
    everywhere: bool = True,
) -> Extension:
    """Extend an orthonormal basis (N, s) by the directions of W (N, b) that are new.

    Basis and W may both be batches, (B, N, s) and (B, N, b); each matrix has a rank of its own.

    Args:
        basis: Orthonormal columns; s may be 0.
        W: The block, in the same dtype and on the same device.
        floor: Length under which a direction of W counts as rounding noise; one per matrix.
        generator: CPU generator of the random columns, which are the same for a whole batch.
        near: How many trailing columns W can have a share of beyond rounding; None: all.
        everywhere: Whether to remove rounding along the others, and to replace what lost rank. If
            not, `inner` is of the near columns alone.

    >>> e1, e2 = torch.eye(3)[:, :1], torch.eye(3)[:, 1:2]
    >>> W = torch.cat([2 * e1 + 3 * e2, e1], dim=1)
    >>> new = extend(e1, W, floor=1e-6, generator=torch.Generator().manual_seed(0))
    >>> int(new.rank), new.block.shape, bool((e1.T @ new.block).abs().max() < 1e-6)
    (1, torch.Size([3, 2]), True)
    """
    size, taken = basis.shape[-2:]
    width = min(W.shape[-1], size - taken)
    first = 0 if near is None else taken - near
    part = basis[..., first:]
    along = overlap(part, W)
    inner = along.double().cpu()
    block, outer, rank = _factor(without(W, part, along), floor)
    if everywhere and first > 0:
        inner = torch.nn.functional.pad(inner, (0, 0, first, 0))
        part = basis
    for _ in range(_PASSES):
        if not rank.any():
            break
        along = overlap(part, block)
        shares = along.double().cpu()
        inner = inner + shares @ outer
        block = without(block, part, along)
        if _stays_orthonormal(outer, shares, W.dtype):
            break
        block, change, left = _factor(block, _KEPT_SHARE)
        outer = change @ outer
        settled = torch.equal(left, rank) and _largest(along) < _SMALL_OVERLAP
        rank = left
        if settled:
            break
    block, outer, rank = block[..., :width], outer[..., :width, :], rank.clamp_max(width)
    if everywhere and bool((rank < width).any()):
        block = _refilled(basis, block, rank, generator)
    return Extension(columns(block), inner, outer, rank)


def combined(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Return basis · C, column-major, for a basis (N, s) and C (s, j) of any dtype.

    Transposed, because BLAS is slow at a long result with few columns.

    >>> combined(torch.eye(2), torch.tensor([[2.0], [1.0]]).double()).T
    tensor([[2., 1.]])
    """
    C = coefficients.to(dtype=basis.dtype, device=basis.device)
    return (C.mT @ basis.mT).mT


def _refilled(basis: Tensor, block: Tensor, rank: Tensor, generator: torch.Generator) -> Tensor:
    """Return the block with random columns, orthogonal to everything, in place of its zeros."""
    width = block.shape[-1]
    missing = width - int(rank.min())
    fresh = random_columns(basis, missing, generator, beside=block)
    place = torch.arange(width) - rank[..., None]
    index = place.clamp(0, missing - 1).to(block.device)
    fill = fresh.gather(-1, index[..., None, :].expand(block.shape))
    return torch.where((place < 0).to(block.device)[..., None, :], block, fill)


def random_columns(
    basis: Tensor, width: int, generator: torch.Generator, *, beside: Tensor | None = None
) -> Tensor:
    """Return `width` random orthonormal columns orthogonal to the basis (and to `beside`).

    Without a basis their span is uniformly distributed.

    >>> random_columns(torch.empty(4, 0), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    size = basis.shape[-2]
    block = torch.randn(width, size, dtype=basis.dtype, generator=generator)
    fresh = block.to(basis.device).T.expand(*basis.shape[:-1], width)
    others = [basis] if beside is None else [basis, beside]
    for _ in range(_PASSES):
        worst = 0.0
        for other in others:
            along = overlap(other, fresh)
            fresh = without(fresh, other, along)
            worst = max(worst, _largest(along))
        fresh = _factor(fresh, 0.0)[0]
        if worst < _SMALL_OVERLAP:
            break
    return fresh


def orthonormal_images(images: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal U (N, k) with images ≈ U diag(s), for images of singular vectors.

    Dividing by s would do where s is large; where it is rounding, the columns are completed at
    random. N must be at least k.

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
        new = extend(U[..., :start], images[..., part], floor=floor, generator=generator)
        scale = torch.maximum(s[..., part].double().cpu(), least)
        # In the order of s, so that columns of rounding noise cannot turn those before them.
        Q, R = torch.linalg.qr(new.outer / scale[..., None, :])
        turned = torch.where(R.diagonal(dim1=-2, dim2=-1)[..., None, :] < 0, -Q, Q)
        U[..., part] = new.block @ turned.to(dtype=U.dtype, device=U.device)
    return U


def orthonormality(basis: Tensor) -> Tensor:
    """Return the largest entry of |Q'Q − I| of a basis Q (N, s), one number for each of a batch.

    Summed in float64 over short parts: BLAS may sum a column in one float32, which was 2e-3 off
    for ten columns of 1e7 entries.

    >>> orthonormality(torch.eye(3)[:, :2])
    tensor(0.)
    """
    size = basis.shape[-1]
    if not size:
        return basis.new_zeros(())
    defect = -torch.eye(size, dtype=torch.float64, device=basis.device)
    defect = defect.expand(*basis.shape[:-2], size, size).clone()
    for part in _parts(basis, _ROWS_SUMMED):
        add_lower_gram(defect, basis[..., part, :])
    return defect.tril_().abs_().amax(dim=(-2, -1)).to(basis.dtype)


def _factor(W: Tensor, floor: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (Q, C, r) with W = Q C up to singular values ≤ floor, r of them above it.

    Q (N, p), p = min(b, N), has r orthonormal columns, then zeros; C (p, b) has zero rows there.

    In float32 this goes through a float64 Gram matrix, which resolves singular values down to
    1e-8 of the largest, below float32 rounding. (LAPACK's float32 QR left columns 1e-4 away from
    unit length on the long, locally concentrated vectors of image networks.) Columns that the
    division by a small singular value blew up are mended by the next pass of `extend`.
    """
    if W.dtype == torch.float64:
        Q, R = torch.linalg.qr(W)
        X, lengths, Yh = dense_svd(R)
        kept = lengths > _as_column(floor, lengths)
        block = (Q @ X) * kept[..., None, :]
        return block, ((lengths * kept)[..., None] * Yh).cpu(), kept.sum(-1).cpu()
    squares, Y = torch.linalg.eigh(_gram(W))
    most = min(W.shape[-2:])
    lengths = squares.flip(-1)[..., :most].clamp_min(0).sqrt()
    Y = Y.flip(-1)[..., :most]
    kept = lengths > _as_column(floor, lengths)
    block = W.new_empty(*W.shape[:-2], most, W.shape[-2]).mT
    turn = Y * torch.where(kept, 1 / lengths, 0.0)[..., None, :]
    for part in _parts(W):
        block[..., part, :] = (turn.mT @ W[..., part, :].mT.double()).mT
    outer = (lengths * kept)[..., None] * Y.mT
    return block, outer.cpu(), kept.sum(-1).cpu()


def _gram(W: Tensor) -> Tensor:
    """Return W'W in float64, without a float64 copy of all of W."""
    b = W.shape[-1]
    gram = torch.zeros(*W.shape[:-2], b, b, dtype=torch.float64, device=W.device)
    for part in _parts(W):
        gram += squared(W[..., part, :].mT.double().mT)
    return gram


def _parts(W: Tensor, rows: int = _ROWS_AT_ONCE) -> list[slice]:
    return [slice(i, i + rows) for i in range(0, W.shape[-2], rows)]


def _as_column(floor: float | Tensor, like: Tensor) -> float | Tensor:
    return floor.to(like.device)[..., None] if isinstance(floor, Tensor) else floor


def _stays_orthonormal(outer: Tensor, shares: Tensor, dtype: torch.dtype) -> bool:
    """Whether a block of `_factor` loses no more than rounding with these shares of a basis.

    Its columns get shorter, and less orthogonal, by squares of the shares.
    """
    lengths = torch.linalg.vector_norm(outer, dim=-1)
    least = torch.where(lengths > 0, lengths, math.inf).amin(-1)
    well = dtype == torch.float64 or bool((least > _WELL_CONDITIONED * lengths.amax(-1)).all())
    eps = torch.finfo(dtype).eps
    return well and float(torch.linalg.vector_norm(shares, dim=(-2, -1)).max()) ** 2 < eps / 4


def _largest(matrix: Tensor) -> float:
    return float(matrix.abs().max()) if matrix.numel() else 0.0
