"""A matrix that is held in memory, as an operator: the reference all others are tested against."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import check_real
from jvpsvd.operators.dense import check_dense_size
from jvpsvd.operators.derivatives.linear_map import Held
from jvpsvd.operators.linear_operator import LinearOperator
from jvpsvd.operators.sparse import both_by_rows, multiply, stored_bytes

# A product of a sparse matrix with eight vectors took five times as long as with one (1.4 million
# entries), so that wide blocks save little. Narrow ones need fewer products (`python -m benchmarks
# sparse` times whole solves).
SPARSE_CHUNK = 8
_LAYOUTS = (torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc)


class MatrixOperator(LinearOperator):
    """An m × n tensor A (dense or sparse), or a dense batch (B, m, n), as a `LinearOperator`.

    Args:
        matrix: Tensor of a real floating dtype with two dimensions, or, if it is dense, three. Or
            an array, of NumPy or with ``__dlpack__`` or ``__array__``. A dense one is not copied; a
            sparse one is copied by rows, for A and for A', which `held_bytes` counts, so that later
            changes of it have no effect.

    Raises:
        ArgumentError: If `matrix` has another number of dimensions, is a sparse batch, lacks
            entries (masked, nested, on meta), or is sparse in half precision.

    >>> import torch
    >>> A = MatrixOperator(torch.tensor([[1.0, 2.0], [0.0, 1.0], [0.0, 0.0]]))
    >>> A
    <MatrixOperator 3 x 2, torch.float32, cpu>
    >>> A.T @ torch.tensor([1.0, 1.0, 1.0])
    tensor([1., 3.])
    >>> MatrixOperator(torch.ones(5, 3, 2)).matmat(torch.ones(2, 4)).shape
    torch.Size([5, 3, 4])
    """

    def __init__(self, matrix: Any) -> None:
        if is_array(matrix):
            if isinstance(matrix, np.ndarray):
                check_real("the array", matrix.dtype)
            matrix = tensor_of("the matrix", matrix)
        if not isinstance(matrix, Tensor) or matrix.is_quantized:
            raise ArgumentError(
                f"MatrixOperator takes a real tensor, not {shown(matrix)}; see aslinearoperator "
                "for matrices of other packages"
            )
        if matrix.is_nested or isinstance(matrix, torch.masked.MaskedTensor) or matrix.is_meta:
            kind = "nested" if matrix.is_nested else "on meta" if matrix.is_meta else "masked"
            raise ArgumentError(
                f"the matrix is {kind}, so that entries are missing; give a tensor that has all"
            )
        dense = matrix.layout == torch.strided
        if matrix.ndim != 2 and not (matrix.ndim == 3 and dense):
            raise ArgumentError(
                "MatrixOperator takes a two-dimensional tensor, or a dense batch of shape "
                f"(B, m, n), got {'' if dense else 'sparse '}shape {tuple(matrix.shape)}"
            )
        super().__init__(tuple(matrix.shape), matrix.dtype, matrix.device)
        self.matrix = _multipliable(matrix.detach())
        self._transposed, self._copies = None, frozenset[Held]()
        if self.matrix.layout != torch.strided:
            self.matrix, self._transposed = both_by_rows(self.matrix)
            copies = Held(stored_bytes(self.matrix) + stored_bytes(self._transposed))
            self._copies = frozenset((copies,))
        elif matrix.layout != torch.strided:
            self._copies = frozenset((Held(self.matrix.nbytes),))

    @property
    def chunk(self) -> int | None:
        """The width from which on a product costs no less per vector, of a sparse matrix."""
        return None if self._transposed is None else SPARSE_CHUNK

    @property
    def entries(self) -> int | None:
        """Number of stored entries of a sparse matrix; None for a dense one."""
        return None if self._transposed is None else self.matrix.values().numel()

    def _held(self) -> frozenset[Held]:
        return self._copies

    def _matmat(self, V: Tensor) -> Tensor:
        return self.matrix @ V if self._transposed is None else multiply(self.matrix, V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        if self._transposed is None:
            return self.matrix.mT @ U
        return multiply(self._transposed, U)

    def to_dense(self) -> Tensor:
        """Return a dense copy of the matrix.

        Raises:
            ArgumentError: If it has more than 2²⁸ entries.
        """
        check_dense_size(self)
        return self.matrix.to_dense().clone()

    @property
    def selection_bytes(self) -> int | None:
        """Bytes that `select` copies for each matrix; None where this is no batch."""
        return self.matrix[0].nbytes if self.batch else None

    def _select(self, index: Tensor) -> LinearOperator:
        return MatrixOperator(self.matrix[index])


def _multipliable(matrix: Tensor) -> Tensor:
    """Return the matrix in a layout that torch multiplies on both sides."""
    if matrix.layout in (torch.sparse_bsr, torch.sparse_bsc):  # the transpose has no product
        return matrix.to_sparse()
    if matrix.layout == torch.sparse_coo and matrix.dense_dim():
        return matrix.to_dense()
    if matrix.layout not in _LAYOUTS:
        raise ArgumentError(f"the matrix has layout {matrix.layout}; give matrix.to_dense()")
    return matrix
