"""What a matrix is when only its products exist.

A block of b vectors of length n is an (n, b) tensor whose *columns* are contiguous in memory, so
that its transpose is the batch of b rows that automatic differentiation wants, without a copy.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError


class Products(NamedTuple):
    """Number of vectors multiplied by an operator, per direction."""

    forward: int = 0
    """Vectors v for which J v was computed."""
    reverse: int = 0
    """Vectors u for which J' u was computed."""

    @property
    def total(self) -> int:
        """Forward and reverse products together."""
        return self.forward + self.reverse

    def since(self, earlier: Products) -> Products:
        """Return the products spent after an earlier reading of the same counter.

        >>> Products(9, 4).since(Products(5, 4))
        Products(forward=4, reverse=0)
        """
        return Products(self.forward - earlier.forward, self.reverse - earlier.reverse)


def columns(block: Tensor) -> Tensor:
    """Return an (n, b) block with contiguous columns; copies only when it must.

    >>> columns(torch.ones(3, 2)).stride()
    (1, 3)
    """
    return block.T.contiguous().T


class LinearOperator(ABC):
    """A real m × n matrix A known by its products A V and A' U.

    Subclasses implement `_matmat` and `_rmatmat` on validated column-major blocks. The public
    products check shapes, dtype and device, and count the vectors they were given.

    Args:
        shape: (m, n), both positive.
        dtype: A real floating dtype; products are neither widened nor narrowed.
        device: Where blocks live.

    Raises:
        ArgumentError: On an empty shape or a dtype that is not real floating point.
    """

    __array_ufunc__ = None  # array @ A and array * A are errors, not arrays of operators

    def __init__(
        self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        m, n = (int(size) for size in shape)
        if m < 1 or n < 1:
            raise ArgumentError(f"operator shape {m} x {n} is empty; both sides must be at least 1")
        if not dtype.is_floating_point:
            raise ArgumentError(
                f"operator dtype {dtype} is not real floating point; use float32 or float64"
            )
        self._shape = (m, n)
        self._dtype = dtype
        self._device = torch.device(device)
        self._forward = 0
        self._reverse = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n): rows and columns of the matrix."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the operator and of its blocks."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of the operator and of its blocks."""
        return self._device

    @property
    def products(self) -> Products:
        """Vectors multiplied so far, per direction."""
        return Products(self._forward, self._reverse)

    @abstractmethod
    def _matmat(self, V: Tensor) -> Tensor:
        """Return A V for a validated (n, b) block."""

    @abstractmethod
    def _rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U for a validated (m, b) block."""

    def matmat(self, V: Tensor) -> Tensor:
        """Return A V, shape (m, b), for a block V of shape (n, b).

        Raises:
            ArgumentError: If V has another shape, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> A = MatrixOperator(torch.diag(torch.tensor([3.0, 2.0])))
        >>> A.matmat(torch.ones(2, 1)).T, A.products
        (tensor([[3., 2.]]), Products(forward=1, reverse=0))
        """
        self._check_block(V, self.shape[1], "matmat", "V")
        self._forward += V.shape[1]
        return columns(self._matmat(columns(V.detach())))

    def rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U, shape (n, b), for a block U of shape (m, b).

        Raises:
            ArgumentError: If U has another shape, dtype or device.
        """
        self._check_block(U, self.shape[0], "rmatmat", "U")
        self._reverse += U.shape[1]
        return columns(self._rmatmat(columns(U.detach())))

    def matvec(self, v: Tensor) -> Tensor:
        """Return A v, shape (m,), for one vector v of shape (n,)."""
        return self.matmat(v.reshape(-1, 1)).reshape(-1)

    def rmatvec(self, u: Tensor) -> Tensor:
        """Return A' u, shape (n,), for one vector u of shape (m,)."""
        return self.rmatmat(u.reshape(-1, 1)).reshape(-1)

    @property
    def T(self) -> LinearOperator:
        """The transpose A', whose products are counted on both operators."""
        return TransposedOperator(self)

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    def __matmul__(self, other: Tensor | LinearOperator) -> Tensor | LinearOperator:
        """``A @ V`` multiplies a block or a vector; ``A @ B`` is the composed operator."""
        if isinstance(other, LinearOperator):
            if self.shape[1] != other.shape[0]:
                raise ArgumentError(
                    f"cannot compose {self.shape[0]} x {self.shape[1]} with "
                    f"{other.shape[0]} x {other.shape[1]}: inner sizes differ"
                )
            return ComposedOperator(
                (self.shape[0], other.shape[1]),
                self,
                other,
                forward=lambda V: self.matmat(other.matmat(V)),
                reverse=lambda U: other.rmatmat(self.rmatmat(U)),
            )
        if not isinstance(other, Tensor):
            raise ArgumentError(
                f"an operator multiplies torch tensors and operators, not {type(other).__name__}"
            )
        if other.ndim == 1:
            return self.matvec(other)
        return self.matmat(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """``A + B``: the sum of two operators of one shape."""
        if not isinstance(other, LinearOperator):
            return NotImplemented
        if self.shape != other.shape:
            raise ArgumentError(
                f"cannot add {self.shape[0]} x {self.shape[1]} and "
                f"{other.shape[0]} x {other.shape[1]}: shapes differ"
            )
        return ComposedOperator(
            self.shape,
            self,
            other,
            forward=lambda V: self.matmat(V) + other.matmat(V),
            reverse=lambda U: self.rmatmat(U) + other.rmatmat(U),
        )

    def __mul__(self, scalar: float | np.floating[Any] | np.integer[Any]) -> LinearOperator:
        """``c * A``: the operator scaled by a number."""
        if not isinstance(scalar, int | float | np.floating | np.integer):
            return NotImplemented
        factor = float(scalar)
        if not math.isfinite(factor):
            raise ArgumentError(f"cannot scale an operator by {scalar}; give a finite number")
        return ComposedOperator(
            self.shape,
            self,
            forward=lambda V: factor * self.matmat(V),
            reverse=lambda U: factor * self.rmatmat(U),
        )

    __rmul__ = __mul__

    def __repr__(self) -> str:
        m, n = self.shape
        return f"<{type(self).__name__} {m} x {n}, {self.dtype}, {self.device}>"

    def _check_block(self, block: Tensor, rows: int, method: str, name: str) -> None:
        m, n = self.shape
        if block.ndim != 2 or block.shape[0] != rows:
            raise ArgumentError(
                f"{method} of an operator of shape {m} x {n} takes {name} of shape "
                f"({rows}, b), got {tuple(block.shape)}"
            )
        if block.dtype != self.dtype or block.device != self.device:
            raise ArgumentError(
                f"{method}: {name} is {block.dtype} on {block.device}, the operator "
                f"{self.dtype} on {self.device}; convert {name} first, nothing is cast silently"
            )


class TransposedOperator(LinearOperator):
    """A' of an operator A; transposing twice gives A back."""

    def __init__(self, transposed: LinearOperator) -> None:
        m, n = transposed.shape
        super().__init__((n, m), transposed.dtype, transposed.device)
        self._transposed = transposed

    @property
    def T(self) -> LinearOperator:
        """The operator that was transposed."""
        return self._transposed

    def _matmat(self, V: Tensor) -> Tensor:
        return self._transposed.rmatmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._transposed.matmat(U)


class ComposedOperator(LinearOperator):
    """An operator made of the products of others: their sum, product or multiple."""

    def __init__(
        self,
        shape: tuple[int, int],
        *parts: LinearOperator,
        forward: Callable[[Tensor], Tensor],
        reverse: Callable[[Tensor], Tensor],
    ) -> None:
        first = parts[0]
        for part in parts[1:]:
            if (part.dtype, part.device) != (first.dtype, first.device):
                raise ArgumentError(
                    f"cannot combine an operator in {first.dtype} on {first.device} with one in "
                    f"{part.dtype} on {part.device}; convert one of them"
                )
        super().__init__(shape, first.dtype, first.device)
        self._matmat_of_parts = forward
        self._rmatmat_of_parts = reverse

    def _matmat(self, V: Tensor) -> Tensor:
        return self._matmat_of_parts(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._rmatmat_of_parts(U)
