"""All singular triplets from the p = min(m, n) products of the shorter side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator, columns
from jvpsvd.svd.dense import dense_svd
from jvpsvd.svd.orthonormal import orthonormal_images
from jvpsvd.svd.products import check_scale, longest_product
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Evidence, Triplets, column_lengths, residual_lengths

# Up to this many entries a matrix is widened to float64 and decomposed as it stands; up to the
# second number its left vectors are computed in float64 too.
_DIRECT_ENTRIES, _WIDE_ENTRIES = 1 << 16, 1 << 22
# Images of singular vectors above this share of s₁ are orthogonal to 1e-8 in float64.
_CLEAR = 1e-4
_ENTRIES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Exact:
    """Hyper-parameters of the exact solver.

    Args:
        block_size: Identity columns per product.
    """

    block_size: int = 64

    def solve(
        self, A: LinearOperator, k: int, tol: float, report: Callable[[Progress], None]
    ) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, by n products with unit vectors.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        matrix = self._assemble(A, k, report)
        U, s, V = _decompose(matrix, k)
        residuals = residual_lengths(
            s, U, V, lambda part: matrix @ V[..., part], lambda part: matrix.mT @ U[..., part]
        )
        fro2 = (column_lengths(matrix) ** 2).sum(-1)
        evidence = f"all {A.shape[-1]} products of the shorter side were taken"
        known = (
            Evidence(float(square), 0.0, True, evidence, k, 0.0) for square in fro2.reshape(-1)
        )
        return Triplets(s, residuals, U, V, tuple(known))

    def _assemble(self, A: LinearOperator, k: int, report: Callable[[Progress], None]) -> Tensor:
        m, n = A.shape[-2:]
        count = A.batch[0] if A.batch else 1
        began = time.perf_counter()
        longest = torch.zeros(A.batch, dtype=torch.float64)
        rows = torch.empty(*A.batch, n, m, dtype=A.dtype, device=A.device)
        for start in range(0, n, self.block_size):
            stop = min(n, start + self.block_size)
            unit = torch.zeros(stop - start, n, dtype=A.dtype, device=A.device)
            unit[torch.arange(stop - start), torch.arange(start, stop)] = 1
            images = A.matmat(unit.T)
            rows[..., start:stop, :] = images.mT
            where = f"unit vectors {start} to {stop - 1}"
            longest = torch.maximum(longest, longest_product(A, images, "forward", where))
            left = (time.perf_counter() - began) * (n - stop) / stop
            report(Progress(count * k * stop // n, count * k, 1.0 - stop / n, A.products, left))
        check_scale(longest, rows)
        return rows.mT


def _decompose(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (U, s, V) of the k leading triplets of an (m, n) matrix, m ≥ n, or of a batch."""
    dtype = matrix.dtype
    if matrix.shape[-2] * matrix.shape[-1] <= _DIRECT_ENTRIES:
        U, s, Vh = dense_svd(matrix.double())
        leading = columns(Vh[..., :k, :].mT.to(dtype))
        return columns(U[..., :k].to(dtype)), s[..., :k].to(dtype), leading
    if dtype == torch.float64:
        Q, R = torch.linalg.qr(matrix)
        X, s, Yh = dense_svd(R)
        return columns(Q @ X[..., :k]), s[..., :k], columns(Yh[..., :k, :].mT)
    # A float64 Gram matrix of float32 columns is exact to 1e-8 s₁, below their own rounding; a
    # float32 one would lose every value under 3e-4 s₁.
    n = matrix.shape[-1]
    gram = torch.zeros(*matrix.shape[:-2], n, n, dtype=torch.float64, device=matrix.device)
    rows = max(1, _ENTRIES_AT_ONCE // (n * (matrix.shape[0] if matrix.ndim > 2 else 1)))
    for start in range(0, matrix.shape[-2], rows):
        part = matrix[..., start : start + rows, :].double()
        gram += part.mT @ part
    squares, vectors = torch.linalg.eigh(gram)
    s = squares.flip(-1)[..., :k].clamp_min(0).sqrt().to(dtype)
    V = columns(vectors.flip(-1)[..., :k].to(dtype))
    return _images(matrix, V, vectors.flip(-1)[..., :k], s), s, V


def _images(matrix: Tensor, V: Tensor, wide: Tensor, s: Tensor) -> Tensor:
    """Return the left vectors of right ones, which are given in float32 and in float64."""
    m, n = matrix.shape[-2:]
    if m * n <= _WIDE_ENTRIES and bool((s[..., -1] > _CLEAR * s[..., 0]).all()):
        return columns(((matrix.double() @ wide) / s[..., None, :].double()).to(matrix.dtype))
    return orthonormal_images(matrix @ V, s, torch.Generator().manual_seed(0))
