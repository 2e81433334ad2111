"""Storage of a basis that grows by blocks; its columns are always contiguous."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.zeros import convert_coefficients

# Rows of the basis that are combined at once. It bounds temporary tensors: a guess.
_LENGTH_AT_ONCE = 1 << 14


class GrowingColumns:
    """An (N, s) column-major block that grows by appended columns and shrinks by combining them.

    For a batch of operators there is one such block for each matrix, all of the same size.

    Args:
        length: N.
        capacity: Columns to reserve; storage grows by half when they are full.
        max_size: The largest number of columns.
        like: Operator whose batch, dtype and device the columns share.

    >>> from jvpsvd.operators import MatrixOperator
    >>> basis = GrowingColumns(3, 1, 3, MatrixOperator(torch.eye(3)))
    >>> basis.append(torch.eye(3)[:, :2])
    >>> basis.block.shape, basis.block.stride()
    (torch.Size([3, 2]), (1, 3))
    >>> basis.combine(torch.tensor([[2.0], [1.0]]))
    >>> basis.block.T
    tensor([[2., 1., 0.]])
    """

    def __init__(self, length: int, capacity: int, max_size: int, like: LinearOperator) -> None:
        self._max_size = max_size
        shape = (*like.batch, capacity, length)
        self._rows = torch.empty(shape, dtype=like.dtype, device=like.device)
        self._used = 0

    @property
    def block(self) -> Tensor:
        """The present columns, as a view."""
        return self._rows[..., : self._used, :].mT

    def append(self, columns: Tensor) -> None:
        """Append the columns of an (N, w) block."""
        used = self._used + columns.shape[-1]
        capacity, length = self._rows.shape[-2:]
        if used > capacity:
            grown = max(used, min(self._max_size, capacity * 3 // 2))
            rows = self._rows.new_empty(*self._rows.shape[:-2], grown, length)
            rows[..., : self._used, :] = self._rows[..., : self._used, :]
            self._rows = rows
        self._rows[..., self._used : used, :] = columns.mT
        self._used = used

    def combine(self, coefficients: Tensor) -> None:
        """Replace the columns Q (N, s) by Q C (N, j), j ≤ s, in place and a few rows at a time."""
        fewer = coefficients.shape[-1]
        C = convert_coefficients(coefficients, self._rows)
        for start in range(0, self._rows.shape[-1], _LENGTH_AT_ONCE):
            part = slice(start, start + _LENGTH_AT_ONCE)
            self._rows[..., :fewer, part] = C.mT @ self._rows[..., : self._used, part]
        self._used = fewer

    def select(self, index: Tensor) -> None:
        """Keep only the blocks of these matrices of the batch (ascending indices), in place."""
        kept = index.tolist()
        for position, matrix in enumerate(kept):
            if position != matrix:
                self._rows[position, : self._used] = self._rows[matrix, : self._used]
        self._rows = self._rows[: len(kept)]
