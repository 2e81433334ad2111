"""What a matrix is when only its products exist."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arguments import dense_tensor, shown
from jvpsvd.operators.blocks import (
    Counter,
    Products,
    by,
    check_image,
    check_places,
    check_real,
    check_shape,
    columns,
    device_of,
)
from jvpsvd.operators.operands import MissingSigns, real_factor, refuse_right_side, refuse_term

_ONE_SIZE = "combine batches of one size, or single operators"


class LinearOperator(MissingSigns, ABC):
    """A real m × n matrix A known by its products A V and A' U, or a batch of B such matrices.

    Subclasses implement `_matmat` and `_rmatmat` on validated column-major blocks; those of a batch
    are (B, n, b) and (B, m, b). The public products check shapes, dtype and device, and count the
    vectors they were given: b, or B·b of a batch.

    Args:
        shape: (m, n), or (B, m, n) for a batch of independent matrices; all positive.
        dtype: A real floating dtype; products are neither widened nor narrowed.
        device: Where blocks live.

    Raises:
        ArgumentError: On an empty shape or a dtype that is not real floating point.
    """

    __array_ufunc__ = None  # array @ A and array * A are errors, not arrays of operators

    def __init__(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        sizes = check_shape(shape)
        check_real("the operator", dtype)
        self._shape = sizes
        self._dtype = dtype
        self._device = device_of(device)
        # Its own counter, and those of the operators it was selected from. Counters, not the
        # operators: a selection must not keep alive what its whole holds in memory.
        self._counters: tuple[Counter, ...] = (Counter(),)

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n): rows and columns of the matrix; (B, m, n) of a batch."""
        return self._shape

    @property
    def batch(self) -> tuple[int, ...]:
        """(B,) of a batch of B matrices, () of a single one.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).batch, MatrixOperator(torch.ones(3, 2)).batch
        ((5,), ())
        """
        return self._shape[:-2]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the operator and of its blocks."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of the operator and of its blocks."""
        return self._device

    @property
    def chunk(self) -> int | None:
        """Vectors from which on a wider block costs no less per vector; None if unknown."""
        return None

    @property
    def products(self) -> Products:
        """Vectors multiplied so far, per direction."""
        return Products(self._counters[0].forward, self._counters[0].reverse)

    @abstractmethod
    def _matmat(self, V: Tensor) -> Tensor:
        """Return A V for a validated (n, b) or (B, n, b) block.

        Its columns are contiguous; one block for all matrices of a batch is expanded, not copied.
        """

    @abstractmethod
    def _rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U for a validated (m, b) or (B, m, b) block, given like that of `_matmat`."""

    def _perturbed(self, seed: int) -> LinearOperator | None:
        """Return a new operator, of this one's function at a point that is another by rounding."""
        return None

    def _select(self, index: Tensor) -> LinearOperator:
        """Return a new operator of the matrices at these places of a batch, all of them valid."""
        raise ArgumentError(
            f"the batch of a {type(self).__name__} cannot be divided; multiply it as a whole"
        )

    def matmat(self, V: Tensor) -> Tensor:
        """Return A V, shape (m, b), for a block V of shape (n, b).

        Of a batch, V is (B, n, b), or (n, b) to multiply every matrix by the same block, and A V
        is (B, m, b).

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
        block = self._checked_block(V, self.shape[-1], "matmat", "V")
        for counter in self._counters:
            counter.forward += math.prod(self.batch) * block.shape[-1]
        return self._image(self._matmat(block), (self.shape[-2], block.shape[-1]), "_matmat")

    def rmatmat(self, U: Tensor) -> Tensor:
        """Return A' U, shape (n, b), for a block U of shape (m, b).

        Of a batch, U is (B, m, b), or (m, b) to multiply every matrix by the same block, and A' U
        is (B, n, b).

        Raises:
            ArgumentError: If U has another shape, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(3, 2)).rmatmat(torch.ones(3, 1)).T
        tensor([[3., 3.]])
        """
        block = self._checked_block(U, self.shape[-2], "rmatmat", "U")
        for counter in self._counters:
            counter.reverse += math.prod(self.batch) * block.shape[-1]
        return self._image(self._rmatmat(block), (self.shape[-1], block.shape[-1]), "_rmatmat")

    def matvec(self, v: Tensor) -> Tensor:
        """Return A v, shape (m,), for one vector v of shape (n,).

        Of a batch, v is (B, n), or (n,) for every matrix, and A v is (B, m).

        Raises:
            ArgumentError: If v has another size, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).matvec(torch.ones(5, 2)).shape
        torch.Size([5, 3])
        """
        return self.matmat(self._one_column(v, "v"))[..., 0]

    def rmatvec(self, u: Tensor) -> Tensor:
        """Return A' u, shape (n,), for one vector u of shape (m,).

        Of a batch, u is (B, m), or (m,) for every matrix, and A' u is (B, n).

        Raises:
            ArgumentError: If u has another size, dtype or device.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).rmatvec(torch.ones(3)).shape
        torch.Size([5, 2])
        """
        return self.rmatmat(self._one_column(u, "u"))[..., 0]

    def select(self, index: Sequence[int] | Tensor) -> LinearOperator:
        """Return the batch of the matrices at these places, shape (len(index), m, n).

        Only these are multiplied from then on; their products are counted on this operator too.

        Args:
            index: Places 0 … B − 1, in any order, as integers or a long tensor of one dimension.

        Raises:
            ArgumentError: If this is no batch, or one that cannot be divided; if a place is not in
                it, or none is given.

        >>> from jvpsvd.operators import MatrixOperator
        >>> A = MatrixOperator(torch.arange(3.0).reshape(3, 1, 1))
        >>> A.select([2, 0]) @ torch.ones(1), A.products
        (tensor([[2.],
                [0.]]), Products(forward=2, reverse=0))
        """
        chosen = self._select(check_places(index, self.shape).to(self.device))
        chosen._counters += self._counters
        return chosen

    def perturbed_by_rounding(self, seed: int) -> LinearOperator | None:
        """Return the operator at a point moved by rounding, or None where A depends on no point.

        A Jacobian J(x) is taken at x + δ, |δᵢ| = ε |xᵢ| with random signs and ε the spacing of the
        dtype's numbers at 1; operators made of others perturb these. What A(x + δ) and A(x) differ
        by is how well A is defined in that precision: much, where rounding decides the side of a
        kink.
        Products of the perturbed operator are counted on this one too.

        Args:
            seed: Of the signs.

        >>> from jvpsvd.operators import JacobianOperator, MatrixOperator
        >>> J = JacobianOperator(torch.square, torch.tensor([1.0, 4.0]))
        >>> moved = J.perturbed_by_rounding(seed=0)
        >>> (moved @ torch.ones(2) - J @ torch.ones(2)).abs() <= 1e-6
        tensor([True, True])
        >>> MatrixOperator(torch.eye(2)).perturbed_by_rounding(seed=0) is None
        True
        """
        if not isinstance(seed, int | np.integer) or abs(seed) >= 1 << 63:
            raise ArgumentError(f"seed={shown(seed)} must be a whole number below 2**63")
        perturbed = self._perturbed(int(seed))
        if perturbed is not None:
            perturbed._counters += self._counters
        return perturbed

    @property
    def T(self) -> LinearOperator:
        """The transpose A', whose products are counted on both operators."""
        return TransposedOperator(self)

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    def __matmul__(self, other: Tensor | LinearOperator) -> Tensor | LinearOperator:
        """``A @ V`` multiplies a block or a vector; ``A @ B`` is the composed operator.

        A tensor of one dimension is a vector, for every matrix of a batch; any other is a block.
        """
        if isinstance(other, LinearOperator):
            both = f"cannot compose {by(self.shape)} with {by(other.shape)}"
            if self.batch != other.batch:
                raise ArgumentError(f"{both}: {_ONE_SIZE}")
            if self.shape[-1] != other.shape[-2]:
                raise ArgumentError(f"{both}: inner sizes differ")
            return ComposedOperator(
                (*self.shape[:-1], other.shape[-1]),
                self,
                other,
                forward=lambda V, A, B: A.matmat(B.matmat(V)),
                reverse=lambda U, A, B: B.rmatmat(A.rmatmat(U)),
            )
        if not isinstance(other, Tensor):
            refuse_right_side(other)
        if dense_tensor("the right side", other).ndim == 1:
            return self.matvec(other)
        return self.matmat(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """``A + B``: the sum of two operators of one shape."""
        if not isinstance(other, LinearOperator):
            refuse_term(other)
        both = f"cannot add {by(self.shape)} and {by(other.shape)}"
        if self.batch != other.batch:
            raise ArgumentError(f"{both}: {_ONE_SIZE}")
        if self.shape != other.shape:
            raise ArgumentError(f"{both}: shapes differ")
        return ComposedOperator(
            self.shape,
            self,
            other,
            forward=lambda V, A, B: A.matmat(V) + B.matmat(V),
            reverse=lambda U, A, B: A.rmatmat(U) + B.rmatmat(U),
        )

    def __mul__(self, scalar: float | np.floating[Any] | np.integer[Any]) -> LinearOperator:
        """``c * A``: the operator scaled by a number."""
        factor = real_factor(scalar)
        return ComposedOperator(
            self.shape,
            self,
            forward=lambda V, A: factor * A.matmat(V),
            reverse=lambda U, A: factor * A.rmatmat(U),
        )

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {by(self.shape)}, {self.dtype}, {self.device}>"

    def _checked_block(self, block: Tensor, rows: int, method: str, name: str) -> Tensor:
        """Return the block as the products take it, with one for each matrix of a batch."""
        dense_tensor(name, block)
        if tuple(block.shape[:-1]) not in ((rows,), (*self.batch, rows)):
            each = f"({self.batch[0]}, {rows}, b) or " if self.batch else ""
            raise ArgumentError(
                f"{method} of an operator of shape {by(self.shape)} takes {name} of shape "
                f"{each}({rows}, b), got {tuple(block.shape)}"
            )
        if block.is_complex():
            raise ArgumentError(
                f"{method}: {name} is {block.dtype} and the operator {self.dtype}, nothing is cast "
                f"silently; multiply {name}.real and {name}.imag apart"
            )
        if block.dtype != self.dtype or block.device != self.device:
            raise ArgumentError(
                f"{method}: {name} is {block.dtype} on {block.device}, the operator "
                f"{self.dtype} on {self.device}; convert {name} first, nothing is cast silently"
            )
        if block.ndim == 3 and block.stride(0) == 0:
            block = block[0]  # already expanded, by an operator that this one is a part of
        block = columns(block.detach())
        return block.expand(*self.batch, *block.shape[-2:])

    def _image(self, image: object, sizes: tuple[int, int], method: str) -> Tensor:
        of = f"{method} of {type(self).__name__}"
        return check_image(image, (*self.batch, *sizes), self.dtype, of)

    def _one_column(self, vector: Tensor, name: str) -> Tensor:
        vector = dense_tensor(name, vector)
        return vector.unsqueeze(-1) if self.batch else vector.reshape(-1, 1)


class TransposedOperator(LinearOperator):
    """A' of an operator A; transposing twice gives A back."""

    def __init__(self, transposed: LinearOperator) -> None:
        m, n = transposed.shape[-2:]
        super().__init__((*transposed.batch, n, m), transposed.dtype, transposed.device)
        self._transposed = transposed

    @property
    def T(self) -> LinearOperator:
        """The operator that was transposed."""
        return self._transposed

    @property
    def chunk(self) -> int | None:
        """That of the operator that was transposed."""
        return self._transposed.chunk

    def _matmat(self, V: Tensor) -> Tensor:
        return self._transposed.rmatmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._transposed.matmat(U)

    def _perturbed(self, seed: int) -> LinearOperator | None:
        perturbed = self._transposed.perturbed_by_rounding(seed)
        return None if perturbed is None else TransposedOperator(perturbed)

    def _select(self, index: Tensor) -> LinearOperator:
        return TransposedOperator(self._transposed.select(index))


class ComposedOperator(LinearOperator):
    """An operator made of the products of others: their sum, product or multiple.

    `forward` and `reverse` take a block and the parts, so that they serve any selection of them.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *parts: LinearOperator,
        forward: Callable[..., Tensor],
        reverse: Callable[..., Tensor],
    ) -> None:
        first = parts[0]
        for part in parts[1:]:
            if (part.dtype, part.device) != (first.dtype, first.device):
                raise ArgumentError(
                    f"cannot combine an operator in {first.dtype} on {first.device} with one in "
                    f"{part.dtype} on {part.device}; convert one of them"
                )
        super().__init__(shape, first.dtype, first.device)
        self._parts = parts
        self._matmat_of_parts = forward
        self._rmatmat_of_parts = reverse

    @property
    def chunk(self) -> int | None:
        """The least of those of the parts that have one."""
        return min((part.chunk for part in self._parts if part.chunk is not None), default=None)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._matmat_of_parts(V, *self._parts)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._rmatmat_of_parts(U, *self._parts)

    def _perturbed(self, seed: int) -> LinearOperator | None:
        perturbed = [part.perturbed_by_rounding(seed) for part in self._parts]
        if all(part is None for part in perturbed):
            return None
        pairs = zip(perturbed, self._parts, strict=True)
        return ComposedOperator(
            self.shape,
            *(part if other is None else other for other, part in pairs),
            forward=self._matmat_of_parts,
            reverse=self._rmatmat_of_parts,
        )

    def _select(self, index: Tensor) -> LinearOperator:
        return ComposedOperator(
            (len(index), *self.shape[1:]),
            *(part.select(index) for part in self._parts),
            forward=self._matmat_of_parts,
            reverse=self._rmatmat_of_parts,
        )
