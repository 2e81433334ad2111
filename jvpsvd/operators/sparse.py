"""Sparse matrices by rows, for A and for A'.

Torch multiplies a compressed matrix fast along its rows alone: a product with the transpose of a
CSR tensor takes many times as long (`python -m benchmarks sparse`). So A' is laid out by rows as
well, once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import tensor_of
from jvpsvd.operators.foreign import shape_and_dtype
from jvpsvd.operators.function.failures import first_line

# So many vectors are multiplied one by one, in 0.7 to 0.8 of the time of a block (`python -m
# benchmarks sparse` times one matrix).
_ONE_BY_ONE = 3
# The images of so many are laid out by columns here: torch takes longer for these, and less time
# for many.
_NARROW = 4
_DTYPES = (torch.float32, torch.float64)


def both_by_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return copies of a sparse tensor and of its transpose in CSR.

    Raises:
        ArgumentError: If its indices are not those of a matrix, or its dtype is not float32 or
            float64.

    >>> A, transposed = both_by_rows(torch.tensor([[1.0, 2.0], [0.0, 0.0]]).to_sparse())
    >>> A.layout == transposed.layout, transposed.to_dense()
    (True, tensor([[1., 0.],
            [2., 0.]]))
    """
    from scipy.sparse import csr_array  # it takes a while to load

    if matrix.dtype not in _DTYPES:
        raise ArgumentError(
            f"sparse matrices are multiplied in float32 or float64, not in {matrix.dtype}; "
            "convert the matrix first"
        )
    with _without_notice():
        rows = matrix.to_sparse_csr()
        m, n = rows.shape
        values = rows.values().clone()
        forward = _rows_of(rows.crow_indices(), rows.col_indices(), values, (m, n))
        # Positions of entries are transposed, so that any dtype will do.
        pointers, indices = (
            part.cpu().numpy() for part in (forward.crow_indices(), forward.col_indices())
        )
        turned = csr_array((np.arange(len(values)), indices, pointers), shape=(m, n)).T.tocsr()
        order, below, across = (
            torch.from_numpy(part).to(values.device)
            for part in (turned.data, turned.indptr, turned.indices)
        )
        return forward, _rows_of(below, across, values[order], (n, m))


def multiply(rows: Tensor, block: Tensor) -> Tensor:
    """Return the product of a CSR matrix with a block of vectors.

    On the CPU a few vectors are multiplied one by one, and others are laid out by rows first, as
    MKL wants them: torch transposes narrow blocks slowly.

    >>> multiply(torch.eye(3).to_sparse_csr(), torch.arange(6.0).reshape(2, 3).T).T
    tensor([[0., 1., 2.],
            [3., 4., 5.]])
    """
    if rows.is_cuda:
        return rows @ block
    if block.shape[-1] > _ONE_BY_ONE:
        # In two dimensions torch would copy by square tiles, which are mostly empty here.
        images = rows @ block[None].contiguous()[0]
        return images if block.shape[-1] > _NARROW else images.mT[None].contiguous()[0].mT
    images = block.new_empty(block.shape[-1], rows.shape[0])
    for vector, image in zip(block.mT, images, strict=True):
        torch.mv(rows, vector, out=image)
    return images.mT


def stored_bytes(rows: Tensor) -> int:
    """Return the bytes of the entries and indices of a CSR tensor.

    >>> stored_bytes(torch.eye(2, dtype=torch.float64).to_sparse_csr())
    56
    """
    return sum(p.nbytes for p in (rows.crow_indices(), rows.col_indices(), rows.values()))


def from_scipy(matrix: Any) -> Tensor:
    """Return a sparse matrix of SciPy as a CSR tensor.

    Raises:
        ArgumentError: If its dtype is not real floating point, or it cannot be laid out by rows.

    >>> import scipy.sparse
    >>> from_scipy(scipy.sparse.eye_array(2)).to_dense()
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    from scipy.sparse import csr_array

    shape, dtype = shape_and_dtype(matrix)
    kind = type(matrix).__name__
    try:
        rows = csr_array(matrix.tocsr())
        if not rows.has_canonical_format:
            rows = rows.copy()  # it may share the memory of the user's
            rows.sum_duplicates()
    except MemoryError:
        raise
    except Exception as error:  # another library, or the user's own code
        raise ArgumentError(
            f"{kind} cannot be laid out by rows ({first_line(error)}); give a matrix of SciPy, or "
            "scipy.sparse.linalg.aslinearoperator of it"
        ) from error
    parts = rows.indptr, rows.indices, rows.data
    pointers, indices, values = (tensor_of(f"{kind}.tocsr()", part) for part in parts)
    with _without_notice():
        return _rows_of(pointers, indices, values.to(dtype), (shape[0], shape[1]))


def _rows_of(pointers: Tensor, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a CSR tensor, with 32-bit indices where they suffice.

    MKL takes these as they are, and copies all others at each product.
    """
    largest = max(*shape, len(values))
    kind = torch.int32 if largest <= torch.iinfo(torch.int32).max else torch.int64
    try:  # torch would read what wrong indices point at
        torch.sparse_csr_tensor(pointers, indices, values, shape, check_invariants=True)
    except RuntimeError as error:
        raise ArgumentError(
            f"the sparse matrix has indices that are none of its shape, or not in order "
            f"({first_line(error)}); build it anew from its entries, as by torch.sparse_coo_tensor"
        ) from error
    pointers, indices = (part.to(kind, copy=True) for part in (pointers, indices))
    return torch.sparse_csr_tensor(pointers, indices, values, shape, check_invariants=False)


@contextmanager
def _without_notice() -> Iterator[None]:
    """Keep back torch's notice that compressed layouts are in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse .* tensor support", UserWarning)
        yield
