"""Matrices known by their products: checked, and counted."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.blocks import by, check_image, check_real, check_shape, columns, device_of
from jvpsvd.operators.derivatives.linear_map import Held
from jvpsvd.operators.environment.autocast import refuse_autocast
from jvpsvd.operators.product_gradients import multiply_with_gradient


class Products(NamedTuple):
    """Number of vectors multiplied by an operator and by its transpose."""

    forward: int = 0
    """Vectors v for which J v was computed."""
    reverse: int = 0
    """Vectors u for which J' u was computed."""

    @property
    def total(self) -> int:
        """All products."""
        return self.forward + self.reverse

    def since(self, earlier: Products) -> Products:
        """Return the products made after an earlier reading of the same counter.

        >>> Products(9, 4).since(Products(5, 4))
        Products(forward=4, reverse=0)
        """
        if not isinstance(earlier, Products):
            raise ArgumentError(f"earlier is {shown(earlier)}; give A.products as it was before")
        return Products(self.forward - earlier.forward, self.reverse - earlier.reverse)


@dataclass
class Counter:
    """Vectors multiplied so far, shared by an operator and all that was selected from it."""

    matmat: int = 0
    rmatmat: int = 0


class MatrixFree(ABC):
    """A real m × n matrix A known by its products A V and A' U, or a batch of B such matrices.

    The public products check shapes, dtype and device, and count the vectors they were given: b, or
    B·b of a batch. `LinearOperator` says what subclasses implement.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        sizes = check_shape(shape)
        check_real("the operator", dtype)
        self._shape = sizes
        self._dtype = self._precision = dtype
        self._device = device_of(device)
        # Its own counter, and those of the operators it was selected from. Not the operators: a
        # selection must not keep alive what its whole holds in memory.
        self._counters: tuple[Counter, ...] = (Counter(),)

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n): rows and columns of the matrix; (B, m, n) for a batch.

        Raises:
            ArgumentError: If the operator was not initialised.
        """
        if "_shape" not in self.__dict__:
            raise ArgumentError(
                f"{type(self).__name__} has no shape; its __init__ is to call "
                "super().__init__(shape, dtype, device)"
            )
        return self._shape

    @property
    def batch(self) -> tuple[int, ...]:
        """(B,) for a batch of B matrices, () for a single one.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).batch, MatrixOperator(torch.ones(3, 2)).batch
        ((5,), ())
        """
        return self.shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the operator and of its blocks."""
        return self._dtype

    @property
    def precision(self) -> torch.dtype:
        """The lowest precision that products are computed in: `dtype`, or less if fn casts inside.

        >>> from jvpsvd import JacobianOperator
        >>> J = JacobianOperator(lambda x: x.float().sin().double(), torch.ones(2).double())
        >>> J.dtype, J.precision
        (torch.float64, torch.float32)
        """
        return self._precision

    @property
    def device(self) -> torch.device:
        """Device of the operator and of its blocks."""
        return self._device

    @property
    def chunk(self) -> int | None:
        """Vectors from which on a wider block costs no less per vector; None if unknown."""
        return None

    @property
    def held_bytes(self) -> int:
        """Bytes that it holds besides weights and matrices that were given to it.

        Those are activations of the point, values computed from weights, and copies of a sparse
        matrix by rows. 0 where it is not known: `derivatives="transforms"`, and operators of other
        libraries. What two parts of an operator share counts once.

        >>> from jvpsvd.operators import JacobianOperator
        >>> J = JacobianOperator(torch.sin, torch.ones(1000), derivatives="trace")
        >>> J.held_bytes, (J.T @ J).held_bytes
        (12000, 12000)
        """
        return sum(each.bytes for each in self._held())

    def _held(self) -> frozenset[Held]:
        """Return what it holds, each piece of memory once."""
        return frozenset()

    @property
    def products(self) -> Products:
        """Vectors multiplied so far: by A (forward) and by its transpose (reverse)."""
        return Products(self._counters[0].matmat, self._counters[0].rmatmat)

    @abstractmethod
    def _matmat(self, V: Tensor) -> Tensor:
        """Return A V for a checked (n, b) or (B, n, b) block.

        The columns of the block are contiguous; one block for all matrices of a batch is expanded,
        not copied.
        """

    @abstractmethod
    def _rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U for a checked (m, b) or (B, m, b) block, laid out as that of `_matmat`."""

    def matmat(self, V: Tensor) -> Tensor:
        """Return A V, shape (m, b), for a block V of shape (n, b).

        For a batch, V is (B, n, b), or (n, b) to multiply every matrix by the same block, and A V
        is (B, m, b). Gradients pass to V, not to the point, weights or entries that A is made of.

        Raises:
            ArgumentError: If V has another shape, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> A = MatrixOperator(torch.diag(torch.tensor([3.0, 2.0])))
        >>> A.matmat(torch.ones(2, 1)).T, A.products
        (tensor([[3., 2.]]), Products(forward=1, reverse=0))
        >>> A = MatrixOperator(torch.ones(5, 3, 2))
        >>> A.matmat(torch.ones(2, 4)).shape, A.products
        (torch.Size([5, 3, 4]), Products(forward=20, reverse=0))
        """
        block = _check_block(self, V, self.shape[-1], "matmat", "V")
        return multiply_with_gradient(self._counted_matmat, self.rmatmat, block)

    def rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U, shape (n, b), for a block U of shape (m, b).

        For a batch, U is (B, m, b), or (m, b) to multiply every matrix by the same block, and A' U
        is (B, n, b). Gradients pass to U alone.

        Raises:
            ArgumentError: If U has another shape, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(3, 2)).rmatmat(torch.ones(3, 1)).T
        tensor([[3., 3.]])
        """
        block = _check_block(self, U, self.shape[-2], "rmatmat", "U")
        return multiply_with_gradient(self._counted_rmatmat, self.matmat, block)

    def _counted_matmat(self, block: Tensor) -> Tensor:
        for counter in self._counters:
            counter.matmat += math.prod(self.batch) * block.shape[-1]
        image = self._matmat(block)
        return _check_image(self, image, (self.shape[-2], block.shape[-1]), "_matmat")

    def _counted_rmatmat(self, block: Tensor) -> Tensor:
        for counter in self._counters:
            counter.rmatmat += math.prod(self.batch) * block.shape[-1]
        image = self._rmatmat(block)
        return _check_image(self, image, (self.shape[-1], block.shape[-1]), "_rmatmat")

    def matvec(self, v: Tensor) -> Tensor:
        """Return A v, shape (m,), for one vector v of shape (n,).

        For a batch, v is (B, n), or (n,) for every matrix, and A v is (B, m).

        Raises:
            ArgumentError: If v has another size, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).matvec(torch.ones(5, 2)).shape
        torch.Size([5, 3])
        """
        return self.matmat(_as_column("v", v, self.batch))[..., 0]

    def rmatvec(self, u: Tensor) -> Tensor:
        """Return A' u, shape (n,), for one vector u of shape (m,).

        For a batch, u is (B, m), or (m,) for every matrix, and A' u is (B, n).

        Raises:
            ArgumentError: If u has another size, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).rmatvec(torch.ones(3)).shape
        torch.Size([5, 2])
        """
        return self.rmatmat(_as_column("u", u, self.batch))[..., 0]


def _check_block(A: MatrixFree, block: Tensor, rows: int, method: str, name: str) -> Tensor:
    """Return the block as the products take it, with one for each matrix of a batch."""
    dense_tensor(name, block)
    refuse_autocast(A.device.type)
    if tuple(block.shape[:-1]) not in ((rows,), (*A.batch, rows)):
        each = f"({A.batch[0]}, {rows}, b) or " if A.batch else ""
        like_point = block.ndim > 1 and block.numel() == rows and not A.batch
        of = "A" if method == "matmat" else "A.T"
        flat = f"; a vector is flat: {of} @ {name}.flatten()" if like_point else ""
        raise ArgumentError(
            f"{method} of an operator of shape {by(A.shape)} takes {name} of shape "
            f"{each}({rows}, b), got {tuple(block.shape)}{flat}"
        )
    if block.is_complex():
        raise ArgumentError(
            f"{method}: {name} is {block.dtype} and the operator {A.dtype}, nothing is cast "
            f"silently; multiply {name}.real and {name}.imag apart"
        )
    if block.dtype != A.dtype or block.device != A.device:
        raise ArgumentError(
            f"{method}: {name} is {block.dtype} on {block.device}, the operator "
            f"{A.dtype} on {A.device}; convert {name} first, nothing is cast silently"
        )
    if block.ndim == 3 and block.stride(0) == 0:
        block = block[0]  # already expanded, by an operator that this one is a part of
    block = columns(block)
    return block.expand(*A.batch, *block.shape[-2:])


def _check_image(A: MatrixFree, image: object, sizes: tuple[int, int], method: str) -> Tensor:
    of = f"{method} of {type(A).__name__}"
    return check_image(image, (*A.batch, *sizes), A.dtype, of)


def _as_column(name: str, vector: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Return a vector as a block of one column."""
    vector = dense_tensor(name, vector)
    return vector.unsqueeze(-1) if batch else vector.reshape(-1, 1)
