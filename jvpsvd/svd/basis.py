"""Storage of a basis that grows by blocks, its columns contiguous throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator

_LENGTH_AT_ONCE = 1 << 14


class GrowingColumns:
    """An (N, s) column-major block that grows by appended columns and shrinks by combining them.

    Args:
        length: N.
        capacity: Columns to reserve; storage grows by half when they are full.
        most: Columns that it will never exceed.
        like: Operator whose dtype and device the columns share.

    >>> from jvpsvd.operators import MatrixOperator
    >>> basis = GrowingColumns(3, 1, 3, MatrixOperator(torch.eye(3)))
    >>> basis.append(torch.eye(3)[:, :2])
    >>> basis.block.shape, basis.block.stride()
    (torch.Size([3, 2]), (1, 3))
    >>> basis.combine(torch.tensor([[2.0], [1.0]]))
    >>> basis.block.T
    tensor([[2., 1., 0.]])
    """

    def __init__(self, length: int, capacity: int, most: int, like: LinearOperator) -> None:
        self._most = most
        self._rows = torch.empty(capacity, length, dtype=like.dtype, device=like.device)
        self._used = 0

    @property
    def block(self) -> Tensor:
        """The columns so far, as a view."""
        return self._rows[: self._used].T

    def append(self, columns: Tensor) -> None:
        """Append the columns of an (N, w) block."""
        used = self._used + columns.shape[1]
        if used > self._rows.shape[0]:
            grown = max(used, min(self._most, self._rows.shape[0] * 3 // 2))
            rows = self._rows.new_empty(grown, self._rows.shape[1])
            rows[: self._used] = self._rows[: self._used]
            self._rows = rows
        self._rows[self._used : used] = columns.T
        self._used = used

    def combine(self, coefficients: Tensor) -> None:
        """Replace the columns Q (N, s) by Q C (N, j), j ≤ s, in place and part by part."""
        fewer = coefficients.shape[1]
        C = coefficients.to(dtype=self._rows.dtype, device=self._rows.device)
        for start in range(0, self._rows.shape[1], _LENGTH_AT_ONCE):
            part = slice(start, start + _LENGTH_AT_ONCE)
            self._rows[:fewer, part] = C.T @ self._rows[: self._used, part]
        self._used = fewer
