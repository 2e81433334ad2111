"""Storage of a basis that grows by blocks, its columns contiguous throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator


class GrowingColumns:
    """An (N, s) column-major block to which columns are appended without copying the old ones.

    Args:
        length: N.
        capacity: Columns to reserve; storage grows by half when they are full.
        like: Operator whose dtype and device the columns share.

    >>> from jvpsvd.operators import MatrixOperator
    >>> basis = GrowingColumns(3, 1, MatrixOperator(torch.eye(3)))
    >>> basis.append(torch.eye(3)[:, :2])
    >>> basis.block.shape, basis.block.stride()
    (torch.Size([3, 2]), (1, 3))
    """

    def __init__(self, length: int, capacity: int, like: LinearOperator) -> None:
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
            grown = max(used, self._rows.shape[0] * 3 // 2)
            rows = self._rows.new_empty(grown, self._rows.shape[1])
            rows[: self._used] = self._rows[: self._used]
            self._rows = rows
        self._rows[self._used : used] = columns.T
        self._used = used
