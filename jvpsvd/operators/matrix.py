"""A matrix that is held in memory, as an operator: the reference all others are tested against."""

from __future__ import annotations

from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.base import LinearOperator


class MatrixOperator(LinearOperator):
    """An m × n tensor A (dense or sparse) as a `LinearOperator`.

    Args:
        matrix: Two-dimensional tensor of a real floating dtype; not copied.

    Raises:
        ArgumentError: If `matrix` is not two-dimensional.

    >>> import torch
    >>> A = MatrixOperator(torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> A
    <MatrixOperator 3 x 2, torch.float32, cpu>
    >>> A.T @ torch.tensor([1.0, 1.0, 1.0])
    tensor([1., 3.])
    """

    def __init__(self, matrix: Tensor) -> None:
        if matrix.ndim != 2:
            raise ArgumentError(
                f"MatrixOperator takes a two-dimensional tensor, got shape {tuple(matrix.shape)}"
            )
        super().__init__((matrix.shape[0], matrix.shape[1]), matrix.dtype, matrix.device)
        self._matrix = matrix.detach()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._matrix @ V

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._matrix.t() @ U  # .T of a compressed sparse layout cannot be multiplied
