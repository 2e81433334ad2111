"""Linear operators: matrices of which only the products exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import by, check_indices, columns
from jvpsvd.operators.dense import frobenius_norm, write_down
from jvpsvd.operators.derivatives.linear_map import Held
from jvpsvd.operators.operands import (
    OPERATOR_NAMES,
    MissingSigns,
    real_divisor,
    real_factor,
    refuse_right_side,
    refuse_term,
)
from jvpsvd.operators.products import MatrixFree
from jvpsvd.records import AnswersOtherNames

Number = float | np.floating[Any] | np.integer[Any]

_ONE_SIZE = "combine batches of one size, or single operators"


class Variants(MatrixFree):
    """A matrix known by its products, some of whose batch, or another point, can be had."""

    def _perturbed(self, seed: int) -> LinearOperator | None:
        """Return this operator at a point moved by rounding; None where it depends on no point."""
        return None

    @property
    def selection_bytes(self) -> int | None:
        """Bytes that `select` copies for each matrix; None where a batch cannot be divided.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.ones(5, 3, 2)).selection_bytes
        24
        """
        return None

    def _select(self, index: Tensor) -> LinearOperator:
        """Return the batch of the matrices at these indices, all of them valid.

        What overrides it overrides `selection_bytes` too, without which no batch is divided.
        """
        raise ArgumentError(
            f"the batch of a {type(self).__name__} cannot be divided; multiply it as a whole"
        )

    def select(self, index: Sequence[int] | Tensor) -> LinearOperator:
        """Return the batch of the matrices at these indices, shape (len(index), m, n).

        Only these are multiplied from then on; their products are counted on this operator too.

        Args:
            index: From 0 to B − 1, in any order, as integers or a long tensor of one dimension.

        Raises:
            ArgumentError: If this is no batch, or one that cannot be divided; if an index is not
                in it, or none is given.

        >>> import torch
        >>> from jvpsvd.operators import MatrixOperator
        >>> A = MatrixOperator(torch.arange(3.0).reshape(3, 1, 1))
        >>> A.select([2, 0]) @ torch.ones(1), A.products
        (tensor([[2.],
                [0.]]), Products(forward=2, reverse=0))
        """
        chosen = self._select(check_indices(index, self.shape).to(self.device))
        chosen._counters += self._counters
        return chosen

    def perturbed_by_rounding(self, seed: int) -> LinearOperator | None:
        """Return the operator at a point moved by rounding, or None where A depends on no point.

        A Jacobian J(x) is taken at x + δ, |δᵢ| = ε |xᵢ| with random signs and ε the spacing of the
        dtype's numbers at 1; operators made of others perturb these. What A(x + δ) and A(x) differ
        by says how well that precision defines A. They differ much where rounding decides on which
        side of a kink the point lies. Products of the perturbed operator are counted on this one
        too.

        Args:
            seed: Draws the signs.

        >>> import torch
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

    def _changed_products(
        self, V: Tensor, images: Tensor, seeds: Sequence[int], transposed: bool
    ) -> Tensor | None:
        """Return what `changed_products` does, of A or of its transpose."""
        return None

    def changed_products(
        self, V: Tensor, images: Tensor, seeds: Sequence[int], transposed: bool = False
    ) -> Tensor | None:
        """Return Ã V − A V for each Ã = `perturbed_by_rounding(seed)`, (seeds, …, m, b).

        None where products of the operators Ã, one after the other, are no more work.

        Args:
            V: A block.
            images: A V.
            seeds: Draw the signs.
            transposed: Whether the products are those of A', and `images` is A' V.

        >>> from jvpsvd.operators import JacobianOperator
        >>> J = JacobianOperator(torch.square, torch.tensor([1.0, 4.0]))
        >>> V = torch.ones(2, 1)
        >>> J.changed_products(V, J @ V, [0, 1]).abs().amax() < 1e-5
        tensor(True)
        """
        changes = self._changed_products(columns(V), images, seeds, transposed)
        if changes is not None:
            vectors = math.prod(self.batch) * V.shape[-1] * len(seeds)
            for counter in self._counters:
                if transposed:
                    counter.rmatmat += vectors
                else:
                    counter.matmat += vectors
        return changes

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {by(self.shape)}, {self.dtype}, {self.device}>"


class LinearOperator(AnswersOtherNames, MissingSigns, Variants):
    """A real m × n matrix A known by its products A V and A' U, or a batch of B such matrices.

    Subclasses implement `_matmat` and `_rmatmat` on checked blocks with contiguous columns; those
    of a batch are (B, n, b) and (B, m, b). The public products check shapes, dtype and device, and
    count the vectors they were given: b, or B·b of a batch.

    Args:
        shape: (m, n), or (B, m, n) for a batch of independent matrices; all positive.
        dtype: A real floating dtype; products are neither widened nor narrowed.
        device: Where blocks live.

    Raises:
        ArgumentError: On an empty shape or a dtype that is not real floating point.
    """

    _other_names = OPERATOR_NAMES

    @property
    def T(self) -> LinearOperator:
        """The transpose A', whose products are counted on both operators."""
        return TransposedOperator(self)

    @property
    def mT(self) -> LinearOperator:
        """The same as `T`, also of a batch."""
        return self.T

    @property
    def H(self) -> LinearOperator:
        """The same as `T`: operators are real."""
        return self.T

    @overload
    def __matmul__(self, other: Tensor) -> Tensor: ...
    @overload
    def __matmul__(self, other: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]: ...
    def __matmul__(self, other: Any) -> Any:
        """``A @ V`` multiplies a block or a vector; ``A @ B`` is the composed operator.

        A tensor of one dimension is a vector, for every matrix of a batch; any other is a block. A
        NumPy array, of the operator's dtype, gives a NumPy array. Other arrays, with
        ``__dlpack__`` or ``__array__``, give a tensor.
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
                matmat=lambda V, A, B: A.matmat(B.matmat(V)),
                rmatmat=lambda U, A, B: B.rmatmat(A.rmatmat(U)),
            )
        if isinstance(other, np.ndarray):
            block = tensor_of("the right side", other).to(self.device)
            return (self @ block).cpu().numpy()
        if not isinstance(other, Tensor):
            if not is_array(other):
                refuse_right_side(other)
            other = tensor_of("the right side", other)
        if dense_tensor("the right side", other).ndim == 1:
            return self.matvec(other)
        return self.matmat(other)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        """``A + B``: the sum of two operators of one shape."""
        return _linear_combination(self, other, 1, "add")

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        """``A - B``: the difference of two operators of one shape."""
        return _linear_combination(self, other, -1, "subtract")

    def __neg__(self) -> LinearOperator:
        """``-A``: the operator with the opposite sign."""
        return _multiple(self, lambda image: -image)

    def __mul__(self, scalar: Number) -> LinearOperator:
        """``c * A``, ``A * c``: the operator scaled by a number."""
        factor = real_factor(scalar, self.dtype)
        return _multiple(self, lambda image: factor * image)

    def __truediv__(self, scalar: Number) -> LinearOperator:
        """``A / c``: the operator divided by a number."""
        divisor = real_divisor(scalar, self.dtype)
        return _multiple(self, lambda image: image / divisor)

    __rmul__ = __mul__

    def to_dense(self) -> Tensor:
        """Return A as a tensor (m, n), or (B, m, n) for a batch.

        It takes min(m, n) products, for every matrix of a batch, or none where A is held as a
        matrix.

        Raises:
            ArgumentError: If it has more than 2²⁸ entries.

        >>> from jvpsvd.operators import JacobianOperator
        >>> J = JacobianOperator(torch.square, torch.tensor([1.0, 3.0]))
        >>> (J - 2 * J.T @ J).to_dense()
        tensor([[  -6.,    0.],
                [   0.,  -66.]])
        """
        return write_down(self)

    def fro_norm(self) -> Tensor:
        """Return the Frobenius norm of A, (), or (B,) for a batch.

        It is exact but for rounding, and takes min(m, n) products, of which only the sums of
        squares are kept. With far fewer products `svds` estimates it: see `fro2` and `fro2_error`
        of a result's certificate.

        Raises:
            ArgumentError: If min(m, n) is more than 2¹⁶, or the norm exceeds what the dtype holds.
            NonFiniteError: If a product holds NaN or infinity.

        >>> from jvpsvd.operators import MatrixOperator
        >>> MatrixOperator(torch.tensor([[3.0, 0.0, 4.0]])).fro_norm()
        tensor(5.)
        """
        return frobenius_norm(self)


class TransposedOperator(LinearOperator):
    """A' of an operator A; transposing twice gives A back."""

    def __init__(self, transposed: LinearOperator) -> None:
        m, n = transposed.shape[-2:]
        super().__init__((*transposed.batch, n, m), transposed.dtype, transposed.device)
        self._transposed, self._precision = transposed, transposed.precision

    @property
    def T(self) -> LinearOperator:
        """The operator that was transposed."""
        return self._transposed

    @property
    def chunk(self) -> int | None:
        """The chunk of the operator that was transposed."""
        return self._transposed.chunk

    def _held(self) -> frozenset[Held]:
        return self._transposed._held()

    def _matmat(self, V: Tensor) -> Tensor:
        return self._transposed.rmatmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._transposed.matmat(U)

    def _perturbed(self, seed: int) -> LinearOperator | None:
        perturbed = self._transposed.perturbed_by_rounding(seed)
        return None if perturbed is None else TransposedOperator(perturbed)

    def _changed_products(
        self, V: Tensor, images: Tensor, seeds: Sequence[int], transposed: bool
    ) -> Tensor | None:
        return self._transposed.changed_products(V, images, seeds, not transposed)

    @property
    def selection_bytes(self) -> int | None:
        """Bytes that `select` copies for each matrix; None where a batch cannot be divided."""
        return self._transposed.selection_bytes

    def _select(self, index: Tensor) -> LinearOperator:
        return TransposedOperator(self._transposed.select(index))


class ComposedOperator(LinearOperator):
    """An operator made of the products of others: their sum, product or multiple.

    `matmat` and `rmatmat` take a block and the parts, so that they serve any selection of them.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *parts: LinearOperator,
        matmat: Callable[..., Tensor],
        rmatmat: Callable[..., Tensor],
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
        self._precision = max(
            (one.precision for one in parts), key=lambda one: torch.finfo(one).eps
        )
        self._matmat_of_parts = matmat
        self._rmatmat_of_parts = rmatmat

    @property
    def chunk(self) -> int | None:
        """The smallest chunk of the parts that have one."""
        return min((part.chunk for part in self._parts if part.chunk is not None), default=None)

    def _held(self) -> frozenset[Held]:
        return frozenset[Held]().union(*(part._held() for part in self._parts))

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
            matmat=self._matmat_of_parts,
            rmatmat=self._rmatmat_of_parts,
        )

    @property
    def selection_bytes(self) -> int | None:
        """Bytes that `select` copies for each matrix; None where a batch cannot be divided."""
        of_parts = [part.selection_bytes for part in self._parts]
        known = [each for each in of_parts if each is not None]
        return sum(known) if len(known) == len(of_parts) else None

    def _select(self, index: Tensor) -> LinearOperator:
        return ComposedOperator(
            (len(index), *self.shape[1:]),
            *(part.select(index) for part in self._parts),
            matmat=self._matmat_of_parts,
            rmatmat=self._rmatmat_of_parts,
        )


def _linear_combination(A: LinearOperator, B: object, sign: int, verb: str) -> LinearOperator:
    """Return A + sign · B."""
    if not isinstance(B, LinearOperator):
        refuse_term(B)
    both = f"cannot {verb} {by(A.shape)} and {by(B.shape)}"
    if A.batch != B.batch:
        raise ArgumentError(f"{both}: {_ONE_SIZE}")
    if A.shape != B.shape:
        raise ArgumentError(f"{both}: shapes differ")
    return ComposedOperator(
        A.shape,
        A,
        B,
        matmat=lambda V, A, B: torch.add(A.matmat(V), B.matmat(V), alpha=sign),
        rmatmat=lambda U, A, B: torch.add(A.rmatmat(U), B.rmatmat(U), alpha=sign),
    )


def _multiple(A: LinearOperator, scaled: Callable[[Tensor], Tensor]) -> LinearOperator:
    return ComposedOperator(
        A.shape,
        A,
        matmat=lambda V, A: scaled(A.matmat(V)),
        rmatmat=lambda U, A: scaled(A.rmatmat(U)),
    )
