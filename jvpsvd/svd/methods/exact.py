"""All singular triplets, from p = min(m, n) products with the unit vectors of the shorter side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator, columns
from jvpsvd.svd.kernels.dense import add_lower_gram, dense_svd
from jvpsvd.svd.kernels.norms import column_norms, residual_norms
from jvpsvd.svd.kernels.orthogonalize import orthonormal_images
from jvpsvd.svd.kernels.threads import over_matrices
from jvpsvd.svd.krylov.quadrature import AllValues
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import check_scale, check_values, largest_product_norm
from jvpsvd.svd.progress import predict_seconds_left
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Evidence, Triplets

# A matrix of at most this many entries is converted to float64 and decomposed directly: a guess.
_DIRECT_ENTRIES = 1 << 16
# One of so many rows for each column is decomposed through its Gram matrix first: for 3072 x 10
# that took a third of the time.
_TALL = 8
# Matrices of a batch that one thread takes at once have so many entries: a guess.
_ENTRIES_TOGETHER = 1 << 18
# Left vectors are computed in float64 too, up to so many entries (a guess) and if all s exceed this
# share of s₁: then images A v of singular vectors are orthogonal to 2e-16 / 1e-8 = 2e-8.
_WIDE_ENTRIES, _CLEAR = 1 << 22, 1e-4
# Entries that are converted to float64 at once. It bounds temporary tensors: a guess.
_ENTRIES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Exact:
    """Hyper-parameters of the exact solver.

    Args:
        block_size: Number of identity columns per product.
    """

    block_size: int = 64

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, by n products with unit vectors.

        Without `request.vectors`, vectors of the longer side are not computed where they would cost
        much. A caller cannot stop this solver, because it has no result before the last product.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
            ArgumentError: If a singular value exceeds what the dtype can hold.
        """
        k, vectors = request.k, request.vectors
        matrix = self._assemble(A, k, monitor)
        with monitor.phase("vectors"):
            if A.batch and matrix.device.type == "cpu":
                parts = over_matrices(
                    lambda part: _solve(matrix[part], k, vectors),
                    len(matrix),
                    max(1, _ENTRIES_TOGETHER // matrix[0].numel()),
                )
                each, norms, squares, left, right = zip(*parts, strict=True)
                values, residuals, fro2 = torch.cat(each), torch.cat(norms), torch.cat(squares)
                U, V = _concatenate(left), _concatenate(right)
            else:
                values, residuals, fro2, U, V = _solve(matrix, k, vectors)
        short = A.shape[-1]
        evidence = f"all {short} products of the shorter side were taken"
        if short == 1:
            evidence = "the only product of the shorter side was taken"
        found = (Evidence(float(one), 0.0, True, evidence, k, 0.0) for one in fro2.reshape(-1))
        samples = (AllValues(one) for one in values.cpu().reshape(-1, A.shape[-1]))
        s = values[..., :k].to(A.dtype)
        return Triplets(s, residuals, U, V, tuple(found), tuple(samples))

    def _assemble(self, A: LinearOperator, k: int, monitor: Monitor) -> Tensor:
        m, n = A.shape[-2:]
        wanted = k * (A.batch[0] if A.batch else 1)
        began = time.perf_counter()
        norm = torch.zeros(A.batch, dtype=torch.float64)
        whole = n <= self.block_size
        rows = torch.empty(*A.batch, 0 if whole else n, m, dtype=A.dtype, device=A.device)
        for start in range(0, n, self.block_size):
            stop = min(n, start + self.block_size)
            unit = torch.zeros(stop - start, n, dtype=A.dtype, device=A.device)
            unit[torch.arange(stop - start), torch.arange(start, stop)] = 1
            with monitor.phase("products"):
                images = A.matmat(unit.T)
                if whole:
                    rows = images.mT
                else:
                    rows[..., start:stop, :] = images.mT
                where = f"unit vectors {start} to {stop - 1}"
                norm = torch.maximum(norm, largest_product_norm(A, images, "forward", where))
            converged, share = wanted if stop == n else 0, stop / n
            left = predict_seconds_left(began, share)
            monitor.report(converged, wanted, share=share, seconds_left=left)
        check_scale(norm, rows)
        return rows.mT


_Solved = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]


def _solve(matrix: Tensor, k: int, vectors: bool) -> _Solved:
    """Return (all s, residuals, ‖A‖²_F, U, V) of an (m, n) matrix, m ≥ n, or of a batch.

    Values and the norm are in float64.
    """
    fro2 = (column_norms(matrix) ** 2).sum(-1)
    m, n = matrix.shape[-2:]
    direct, wide_enough = m * n <= _DIRECT_ENTRIES, matrix.dtype == torch.float64
    clear = _by_clear_gram(matrix, k) if direct and not wide_enough and m >= _TALL * n else None
    if clear is not None:
        U, values, V = clear
        s = values[..., :k].to(matrix.dtype)
    elif direct or wide_enough:
        U, values, V = _by_svd(matrix, k, direct)
        s = values[..., :k].to(matrix.dtype)
    else:
        gram, values, wide = _by_gram(matrix, k)
        s = values[..., :k].to(matrix.dtype)
        check_values(s)  # infinite images have no basis
        V = columns(wide.to(matrix.dtype))
        if not vectors:
            return values, one_sided_residuals(gram, s, wide), fro2, None, V
        U = _images(matrix, V, wide, s)
    residuals = residual_norms(
        s, U, V, lambda part: matrix @ V[..., part], lambda part: matrix.mT @ U[..., part]
    )
    return values, residuals, fro2, U, V


def _by_svd(matrix: Tensor, k: int, direct: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (U, all s, V), of a float64 matrix; a QR comes first unless `direct`."""
    dtype = matrix.dtype
    if direct:
        U, s, Vh = dense_svd(matrix.double())
    else:
        Q, R = torch.linalg.qr(matrix)
        X, s, Vh = dense_svd(R)
        U = Q @ X[..., :k]
    return (
        columns(U[..., :k].to(dtype)),
        s,
        columns(Vh[..., :k, :].mT.to(dtype)),
    )


def _by_clear_gram(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return (U, all s, V) of a float32 matrix; None if a value is too small for the Gram matrix.

    All values are as exact as those of a float64 decomposition, to 1e-12 s₁.
    """
    double = matrix.double()
    squares, wide = torch.linalg.eigh(double.mT @ double)
    values, wide = squares.flip(-1).clamp_min(0).sqrt(), wide.flip(-1)[..., :k]
    if not bool((values[..., -1] > _CLEAR * values[..., 0]).all()):
        return None
    U = (double @ wide) / values[..., None, :k]
    return columns(U.to(matrix.dtype)), values, columns(wide.to(matrix.dtype))


def _by_gram(matrix: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (A'A, all s, V) of a float32 matrix; A'A (its lower triangle) and V are float64.

    A float64 Gram matrix of float32 columns resolves values down to 1e-8 s₁, below the rounding of
    the columns. A float32 Gram matrix would lose all values below 3e-4 s₁.
    """
    n = matrix.shape[-1]
    gram = torch.zeros(*matrix.shape[:-2], n, n, dtype=torch.float64, device=matrix.device)
    rows = max(1, _ENTRIES_AT_ONCE // (n * (matrix.shape[0] if matrix.ndim > 2 else 1)))
    for start in range(0, matrix.shape[-2], rows):
        add_lower_gram(gram, matrix[..., start : start + rows, :].double())
    squares, vectors = torch.linalg.eigh(gram, UPLO="L")
    return gram, squares.flip(-1).clamp_min(0).sqrt(), vectors.flip(-1)[..., :k]


def one_sided_residuals(gram: Tensor, s: Tensor, wide: Tensor) -> Tensor:
    """Return the residuals of s with v and u = A v / |A v|, from A'A alone.

    |A' u − s v| is |A'A v − s |A v| v| / |A v|, and |A v − s u| is ||A v| − s|.
    """
    whole = gram.tril() + gram.tril(-1).mT
    images = whole @ wide
    squares = (images * wide).sum(-2)
    norms = squares.clamp_min(0).sqrt()
    # Below this, |A v| is rounding of A'A, and the direction of A v is arbitrary.
    least = torch.finfo(torch.float64).eps ** 0.5 * s[..., :1].double()
    divisor = torch.maximum(norms, torch.where(least > 0, least, 1.0))
    values = s.double()
    adjoint = column_norms(images - wide * (values * norms)[..., None, :]) / divisor
    return torch.maximum(adjoint, (norms - values).abs()).to(s.dtype)


def _images(matrix: Tensor, V: Tensor, wide: Tensor, s: Tensor) -> Tensor:
    """Return the left vectors for right ones, which are given in float32 and in float64."""
    m, n = matrix.shape[-2:]
    if m * n <= _WIDE_ENTRIES and bool((s[..., -1] > _CLEAR * s[..., 0]).all()):
        return columns(((matrix.double() @ wide) / s[..., None, :].double()).to(matrix.dtype))
    return orthonormal_images(matrix @ V, s, torch.Generator().manual_seed(0))


def _concatenate(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return the vectors of a batch's parts in one column-major tensor; None if there are none."""
    kept = [part.mT for part in parts if part is not None]
    return torch.cat(kept).mT if kept else None
