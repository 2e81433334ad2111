"""Rank-revealing extension of an orthonormal basis by a block.

A Krylov block loses rank when the space is exhausted, when singular values repeat, and when what is
left of it is rounding noise. Normalising such columns as if they were signal makes the basis lose
its orthonormality, and singular values appear that are not there. Here, directions below a floor
are dropped with coefficient 0 and replaced by random ones, orthogonal to everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import columns
from jvpsvd.svd.dense import dense_svd

_PASSES = 5
# A column that keeps less than this share of its length under a projection was mostly rounding.
_KEPT_SHARE = 0.5
# Below this overlap one more projection brings a unit column to working orthogonality.
_SMALL_OVERLAP = 0.1
_COLUMNS_AT_ONCE = 64


@dataclass(frozen=True)
class Extension:
    """W = basis · inner + block · outer, up to columns no longer than the floor."""

    block: Tensor
    """(N, w) orthonormal and orthogonal to the basis; w = min(b, N − s)."""
    inner: Tensor
    """(s, b) coefficients along the basis, float64."""
    outer: Tensor
    """(w, b) coefficients along the block, float64; rows of random columns are 0."""
    rank: int
    """Columns of the block that W spans; the other w − rank are random."""


def extend(basis: Tensor, W: Tensor, *, floor: float, generator: torch.Generator) -> Extension:
    """Extend an orthonormal basis (N, s) by the directions of W (N, b) that are new.

    Args:
        basis: Orthonormal columns; s may be 0.
        W: The block, in the same dtype and on the same device.
        floor: Length under which a direction of W counts as rounding noise.
        generator: CPU generator of the random columns.

    >>> e1, e2 = torch.eye(3)[:, :1], torch.eye(3)[:, 1:2]
    >>> W = torch.cat([2 * e1 + 3 * e2, e1], dim=1)
    >>> new = extend(e1, W, floor=1e-6, generator=torch.Generator().manual_seed(0))
    >>> new.rank, new.block.shape, bool((e1.T @ new.block).abs().max() < 1e-6)
    (1, torch.Size([3, 2]), True)
    """
    size, taken = basis.shape
    width = min(W.shape[1], size - taken)
    overlap = basis.T @ W
    inner = overlap.double().cpu()
    block, outer = _factor(W - basis @ overlap, floor)
    for _ in range(_PASSES):
        if block.shape[1] == 0:
            break
        overlap = basis.T @ block
        inner = inner + overlap.double().cpu() @ outer
        block, change = _factor(block - basis @ overlap, _KEPT_SHARE)
        outer = change @ outer
        if change.shape[0] == change.shape[1] and _largest(overlap) < _SMALL_OVERLAP:
            break
    block, outer = block[:, :width], outer[:width]
    rank = block.shape[1]
    if rank < width:
        fresh = random_columns(basis, width - rank, generator, beside=block)
        block = columns(torch.cat([block, fresh], dim=1))
        outer = torch.cat([outer, outer.new_zeros(width - rank, outer.shape[1])])
    return Extension(block, inner, outer, rank)


def random_columns(
    basis: Tensor, width: int, generator: torch.Generator, *, beside: Tensor | None = None
) -> Tensor:
    """Return `width` random orthonormal columns orthogonal to the basis (and to `beside`).

    Without a basis their span is uniformly distributed.

    >>> random_columns(torch.empty(4, 0), 2, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    size = basis.shape[0]
    block = torch.randn(width, size, dtype=torch.float64, generator=generator)
    fresh = block.to(dtype=basis.dtype, device=basis.device).T
    others = [basis] if beside is None else [basis, beside]
    for _ in range(_PASSES):
        overlap = 0.0
        for other in others:
            projection = other.T @ fresh
            fresh = fresh - other @ projection
            overlap = max(overlap, _largest(projection))
        fresh = _factor(fresh, 0.0)[0]
        if overlap < _SMALL_OVERLAP:
            break
    return fresh


def orthonormal_images(images: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal U (N, k) with images ≈ U diag(s), for images of singular vectors.

    Dividing by s would do where s is large; where it is rounding, the columns are completed at
    random. N must be at least k.

    >>> s = torch.tensor([2.0, 0.0])
    >>> images = torch.diag(s)
    >>> U = orthonormal_images(images, s, torch.Generator().manual_seed(0))
    >>> torch.allclose(U[:, 0], torch.tensor([1.0, 0.0])), orthonormality(U) < 1e-6
    (True, True)
    """
    floor = torch.finfo(images.dtype).eps * float(s[0])
    U = columns(torch.empty_like(images))
    for start in range(0, images.shape[1], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        new = extend(U[:, :start], images[:, part], floor=floor, generator=generator)
        scale = s[part].double().cpu().clamp_min(floor or 1.0)
        # In the order of s, so that columns of rounding noise cannot turn those before them.
        Q, R = torch.linalg.qr(new.outer / scale)
        turned = torch.where(R.diagonal() < 0, -Q, Q)
        U[:, part] = new.block @ turned.to(dtype=U.dtype, device=U.device)
    return U


def orthonormality(basis: Tensor) -> float:
    """Return the largest entry of |Q'Q − I| of a basis Q (N, s).

    >>> orthonormality(torch.eye(3)[:, :2])
    0.0
    """
    gram = basis.T @ basis
    return _largest(gram - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device))


def _factor(W: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return (Q, C) with W = Q C up to singular values ≤ floor, Q orthonormal.

    In float32 this goes through a float64 Gram matrix, which resolves singular values down to
    1e-8 of the largest, below float32 rounding. (LAPACK's float32 QR left columns 1e-4 away from
    unit length on the long, locally concentrated vectors of image networks.) Columns that the
    division by a small singular value blew up are mended by the next pass of `extend`.
    """
    if W.dtype == torch.float64:
        Q, R = torch.linalg.qr(W)
        X, lengths, Yh = dense_svd(R)
        rank = int((lengths > floor).sum())
        return columns(Q @ X[:, :rank]), (lengths[:rank, None] * Yh[:rank]).cpu()
    wide = W.double()
    squares, Y = torch.linalg.eigh(wide.T @ wide)
    lengths, Y = squares.flip(0).clamp_min(0).sqrt(), Y.flip(1)
    rank = min(int((lengths > floor).sum()), W.shape[0])
    block = wide @ (Y[:, :rank] / lengths[:rank])
    return columns(block.to(W.dtype)), (lengths[:rank, None] * Y[:, :rank].T).cpu()


def _largest(matrix: Tensor) -> float:
    return float(matrix.abs().max()) if matrix.numel() else 0.0
