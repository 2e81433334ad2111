"""What takes min(m, n) products of a matrix: its entries, and its Frobenius norm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError, NonFiniteError
from jvpsvd.operators.blocks import by
from jvpsvd.operators.products import MatrixFree
from jvpsvd.scaling import row_norms

_MOST_ENTRIES, _MOST_PRODUCTS = 1 << 28, 1 << 16
# Entries of a block of unit vectors and its image together.
BLOCK_ENTRIES = 1 << 24


def check_dense_size(A: MatrixFree) -> None:
    """Check that a matrix is small enough to be written down.

    Raises:
        ArgumentError: If it is not.
    """
    entries = math.prod(A.shape)
    if entries > _MOST_ENTRIES:
        raise ArgumentError(
            f"to_dense of {by(A.shape)} would hold {entries:.1e} entries, and {_MOST_ENTRIES} "
            "(2**28) are the most; use svds(A, k), A @ V for some columns, or restrict(A, rows)"
        )


def write_down(A: MatrixFree) -> Tensor:
    """Return the matrix as a tensor of the shape of A; see `LinearOperator.to_dense`."""
    check_dense_size(A)
    out = torch.empty(A.shape, dtype=A.dtype, device=A.device)
    if A.shape[-1] <= A.shape[-2]:
        for start, images in _images(A, A.matmat, A.shape[-1]):
            out[..., start : start + images.shape[-1]] = images
    else:
        for start, images in _images(A, A.rmatmat, A.shape[-2]):
            out[..., start : start + images.shape[-1], :] = images.mT
    return out


def frobenius_norm(A: MatrixFree) -> Tensor:
    """Return the Frobenius norm of the matrix; see `LinearOperator.fro_norm`."""
    m, n = A.shape[-2:]
    if min(m, n) > _MOST_PRODUCTS:
        raise ArgumentError(
            f"fro_norm of {by(A.shape)} takes {min(m, n)} products, and {_MOST_PRODUCTS} (2**16) "
            "are the most; svds(A, k).certificate estimates it: fro2, fro2_error"
        )
    norms = [
        row_norms(images.flatten(-2))
        for _, images in _images(A, A.matmat if n <= m else A.rmatmat, min(m, n))
    ]
    wide = row_norms(torch.stack(norms, dim=-1))
    norm = wide.to(A.dtype)
    if not bool(norm.isfinite().all()):
        if bool(torch.stack(norms).isfinite().all()):
            raise ArgumentError(
                f"the Frobenius norm exceeds what {A.dtype} can hold; divide the operator by 10"
            )
        raise NonFiniteError(
            f"a product of the operator, {by(A.shape)}, holds NaN or infinity; check the function "
            "at this point"
        )
    return norm


def _images(
    A: MatrixFree, product: Callable[[Tensor], Tensor], size: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the products of all unit vectors, in blocks, each with the index of its first."""
    numbers = math.prod(A.batch) * sum(A.shape[-2:])
    width = max(1, A.chunk or 1, BLOCK_ENTRIES // numbers)
    for start in range(0, size, width):
        rows = torch.zeros(min(width, size - start), size, dtype=A.dtype, device=A.device)
        rows.diagonal(start).fill_(1)
        yield start, product(rows.mT)
