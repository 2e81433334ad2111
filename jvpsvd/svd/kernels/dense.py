"""Singular value decompositions of matrices in memory, with a fallback where LAPACK fails."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Columns of a strip of a Gram matrix. Narrow strips skip more of the upper triangle, and wide ones
# make larger products. With 320 columns, strips of 64 to 80 took 0.75 of one product, 128 0.9.
_STRIP = 80
# With at least this many rows, and at least this many times k, an eigensolver that computes only k
# vectors is faster. `python -m benchmarks small_timings projected` times 1000 to 2800 rows.
_LEADING_ROWS, _LEADING_TIMES = 1200, 3


def dense_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin (U, s, Vh) of a finite matrix, or of each of a batch.

    torch uses LAPACK's divide and conquer on the CPU, which fails for some matrices with many
    repeated values. QR iteration, which is slower, decomposes those.

    >>> dense_svd(torch.eye(2))[1]
    tensor([1., 1.])
    """
    try:
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if matrix.ndim == 2:
            return svd_by_qr_iteration(matrix)
        parts = [dense_svd(one) for one in matrix]
        return (
            torch.stack([part[0] for part in parts]),
            torch.stack([part[1] for part in parts]),
            torch.stack([part[2] for part in parts]),
        )
    return U, s, Vh


def leading_svd(
    matrix: Tensor, k: int, loss: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (U, s, Vh) of the k largest singular values of a square float64 matrix on the CPU.

    For the matrix X, u and s² are computed as eigenvectors and eigenvalues of X X', in a half or a
    third of the time of the whole SVD (`python -m benchmarks small_timings projected`). Squaring
    costs digits: the v = X' u / s are orthonormal only to eps (s₁/s_k)². Where that exceeds `loss`,
    the whole SVD is computed.

    Args:
        matrix: (s, s), or a batch.
        k: Number of triplets.
        loss: Loss of orthonormality that the right vectors may have.
        device: Device on which to compute eigenvalues; None: that of the matrix.

    >>> U, s, Vh = leading_svd(torch.diag(torch.arange(300.0, dtype=torch.float64)), 2, 1e-9)
    >>> s, int(U[299, 0].abs()), Vh.shape
    (tensor([299., 298.], dtype=torch.float64), 1, torch.Size([2, 300]))
    """
    eps = torch.finfo(torch.float64).eps
    if loss > eps:
        there = matrix.to(device=device)
        gram = torch.zeros_like(there)
        add_lower_gram(gram, there.mT)
        squares, U = leading_eigenpairs(gram, k)
        if bool((eps * squares[..., 0] < loss * squares[..., -1]).all()):
            images = U.mT @ there
            norms = torch.linalg.vector_norm(images, dim=-1, keepdim=True)
            return U.cpu(), squares.sqrt().cpu(), (images / norms).cpu()
    U, s, Vh = dense_svd(matrix)
    return U[..., :k], s[..., :k], Vh[..., :k, :]


def leading_eigenpairs(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest eigenvalues of a symmetric matrix, descending, and vectors.

    Only the lower triangle of (s, s), or of a batch, is read. It may be overwritten. All are NaN if
    LAPACK fails.

    >>> values, vectors = leading_eigenpairs(torch.diag(torch.tensor([1.0, 3.0, 2.0])).double(), 2)
    >>> values, int(vectors[1, 0].abs())
    (tensor([3., 2.], dtype=torch.float64), 1)
    """
    size = matrix.shape[-1]
    try:
        few = size >= max(_LEADING_ROWS, _LEADING_TIMES * k) and matrix.dtype == torch.float64
        if few and matrix.ndim == 2 and matrix.device.type == "cpu":
            from scipy.linalg import eigh  # it takes a while to load

            found = eigh(
                matrix.numpy(),
                subset_by_index=(size - k, size - 1),
                driver="evr",
                overwrite_a=True,
                check_finite=False,
            )
            values, vectors = (torch.from_numpy(part) for part in found)
        else:
            values, vectors = torch.linalg.eigh(matrix)
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError):  # type: ignore[attr-defined]
        return matrix.new_full((k,), torch.nan), matrix.new_full((size, k), torch.nan)
    return values[..., -k:].flip(-1), vectors[..., -k:].flip(-1)


def add_lower_gram(gram: Tensor, matrix: Tensor) -> None:
    """Add the lower triangle of X'X to (k, k) in place, for X (N, k) or a batch.

    It is computed by strips of columns, so that most of the upper triangle is skipped.

    >>> gram = torch.zeros(2, 2)
    >>> add_lower_gram(gram, torch.tensor([[1.0, 2.0]]))
    >>> gram.tril()
    tensor([[1., 0.],
            [2., 4.]])
    """
    for start in range(0, matrix.shape[-1], _STRIP):
        strip = slice(start, start + _STRIP)
        gram[..., strip, : strip.stop] += matrix[..., strip].mT @ matrix[..., : strip.stop]


def svd_by_qr_iteration(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin (U, s, Vh) of a finite matrix by QR iteration, which is slower and safer."""
    from scipy.linalg import svd

    U, s, Vh = svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    return (
        torch.from_numpy(U).to(matrix.device),
        torch.from_numpy(s).to(matrix.device),
        torch.from_numpy(Vh).to(matrix.device),
    )
