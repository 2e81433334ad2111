"""The singular value decomposition of matrices in memory, which must not fail."""

from __future__ import annotations

import torch
from torch import Tensor

_STRIP = 128


def dense_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the thin (U, s, Vh) of a finite matrix, or of each of a batch.

    LAPACK's divide and conquer, which is torch's only choice on the CPU, gives up on some
    matrices with many repeated values; QR iteration, slower, takes those.

    >>> dense_svd(torch.eye(2))[1]
    tensor([1., 1.])
    """
    try:
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        if matrix.ndim == 2:
            return _by_qr_iteration(matrix)
        parts = [dense_svd(one) for one in matrix]
        return (
            torch.stack([part[0] for part in parts]),
            torch.stack([part[1] for part in parts]),
            torch.stack([part[2] for part in parts]),
        )
    return U, s, Vh


def add_lower_gram(gram: Tensor, matrix: Tensor) -> None:
    """Add the lower triangle of X'X to (k, k) in place, for X (N, k) or a batch.

    By strips of columns, so that what lies far above the diagonal is never computed.

    >>> gram = torch.zeros(2, 2)
    >>> add_lower_gram(gram, torch.tensor([[1.0, 2.0]]))
    >>> gram.tril()
    tensor([[1., 0.],
            [2., 4.]])
    """
    for start in range(0, matrix.shape[-1], _STRIP):
        strip = slice(start, start + _STRIP)
        gram[..., strip, : strip.stop] += matrix[..., strip].mT @ matrix[..., : strip.stop]


def _by_qr_iteration(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import scipy.linalg

    U, s, Vh = scipy.linalg.svd(matrix.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    return (
        torch.from_numpy(U).to(matrix.device),
        torch.from_numpy(s).to(matrix.device),
        torch.from_numpy(Vh).to(matrix.device),
    )
