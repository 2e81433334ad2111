"""Refuse signs and names that operators do not have, and operands that they do not take."""

from __future__ import annotations

import math
import operator
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError, OperandError

_SOLVE = "write jvpsvd.svds(A, k)"
_MOVE = "make the operator anew, from a matrix, or a function and its point, there"
OPERATOR_NAMES = {
    **dict.fromkeys(("dot", "mm", "mv", "matmul", "jvp", "forward"), "write A @ V"),
    **dict.fromkeys(("vjp", "rdot", "backward"), "write A.T @ U"),
    **dict.fromkeys(("adjoint", "transpose", "t"), "it is A.T here"),
    **dict.fromkeys(("toarray", "todense", "dense", "numpy", "A"), "it is to_dense() here"),
    **dict.fromkeys(("norm", "frobenius"), "write fro_norm(), or jvpsvd.svds(A, 1).s for σ1"),
    **dict.fromkeys(("svd", "svds", "svdvals", "singular_values", "U", "s", "S", "Vh"), _SOLVE),
    "rank": 'write jvpsvd.svds(A, "all").rank()',
    **dict.fromkeys(("cond", "condition_number"), 'write jvpsvd.svds(A, "all").condition_number()'),
    **dict.fromkeys(("ndim", "size", "numel"), "its shape is (m, n), or (B, m, n) of a batch"),
    **dict.fromkeys(("to", "cpu", "cuda", "double", "float"), _MOVE),
}
"""What to write in place of names that matrices of other packages have."""

_NO_ARRAY = (
    "an operator is no array; write A.to_dense().numpy() for its entries, as_scipy(A) for "
    "functions of SciPy, and A @ v for products with NumPy's vectors"
)
# What NumPy calls signs, and Python.
_SIGNS = {
    **{"add": "add", "subtract": "sub", "multiply": "mul", "matmul": "matmul"},
    **{"divide": "truediv", "floor_divide": "floordiv", "remainder": "mod", "power": "pow"},
}


class MissingSigns:
    """The signs that an operator does not have; each says what to write instead."""

    def __radd__(self, other: object) -> NoReturn:
        if isinstance(other, int) and other == 0:
            raise OperandError(
                "sum(operators) begins with 0, which is no operator; write "
                "sum(operators[1:], operators[0])"
            )
        refuse_term(other)

    def __rsub__(self, other: object) -> NoReturn:
        refuse_term(other)

    def __rtruediv__(self, other: object) -> NoReturn:
        raise OperandError(f"{shown(other)} cannot be divided by an operator, which has no inverse")

    def __pow__(self, other: object) -> NoReturn:
        raise OperandError(f"an operator has no '**' ({shown(other)}); write A @ A")

    def __rpow__(self, other: object) -> NoReturn:
        raise OperandError(f"{shown(other)} has no power that is an operator; write A @ A for A²")

    def __rmatmul__(self, other: object) -> NoReturn:
        raise OperandError(
            f"{shown(other)} stands left of an operator; write A.T @ v for a vector v, and "
            "(A.T @ V.mT).mT for a block V"
        )

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> NoReturn:
        raise OperandError(
            "an operator has no abs(); write A.to_dense().abs() for the entries, or "
            "jvpsvd.svds(A, 1).s for the norm"
        )

    def __floordiv__(self, other: object) -> NoReturn:
        raise OperandError(f"an operator has no '//' and no '%' ({shown(other)}); write A / c")

    def __rfloordiv__(self, other: object) -> NoReturn:
        self.__rtruediv__(other)

    __mod__ = __divmod__ = __floordiv__
    __rmod__ = __rdivmod__ = __rfloordiv__

    def __round__(self, digits: int | None = None) -> NoReturn:
        raise OperandError(
            f"an operator is not rounded; write A.to_dense().round(decimals={digits or 0})"
        )

    def __lt__(self, other: object) -> NoReturn:
        raise OperandError(
            f"an operator is neither smaller nor larger than {shown(other)}; compare norms, "
            "jvpsvd.svds(A, 1).s, or the entries of A.to_dense()"
        )

    __le__ = __gt__ = __ge__ = __lt__

    def __getitem__(self, key: object) -> NoReturn:
        _refuse_entries(self)

    def __setitem__(self, key: object, value: object) -> NoReturn:
        raise OperandError(
            "entries of an operator cannot be set; add an operator to it, A + aslinearoperator(D)"
        )

    def __delitem__(self, key: object) -> NoReturn:
        raise OperandError("an operator holds no entries to delete; write restrict(A, rows=[…])")

    def __iter__(self) -> Any:
        _refuse_entries(self)

    def __len__(self) -> int:
        raise OperandError(
            "an operator has no len(): A.shape is (m, n), and A.to_dense() a tensor of its entries"
        )

    def __bool__(self) -> bool:
        return True

    def __contains__(self, value: object) -> bool:
        raise OperandError(
            f"an operator cannot be asked whether {shown(value)} is in it; ask A.to_dense()"
        )

    def __float__(self) -> float:
        raise OperandError(
            "an operator is no number; write jvpsvd.svds(A, 1).s.item() for its norm, or "
            "A.to_dense().item() where it is 1 x 1"
        )

    def __int__(self) -> int:
        return int(self.__float__())

    def __complex__(self) -> complex:
        return complex(self.__float__())

    def __trunc__(self) -> int:
        return int(self.__float__())

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *given: Any, **options: Any) -> Any:
        """Take signs, between an operator and what NumPy has, as Python takes them."""
        sign = _SIGNS.get(ufunc.__name__)
        if sign is None or method != "__call__" or len(given) != 2 or options.keys() - {"out"}:
            raise OperandError(_NO_ARRAY)
        if isinstance(given[0], MissingSigns):
            return getattr(operator, sign)(*given)
        return getattr(given[1], f"__r{sign}__")(given[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if dtype is not None and np.dtype(dtype) == object:  # an array of operators
            held = np.empty((), dtype=object)
            held[()] = self
            return held
        raise OperandError(_NO_ARRAY)


def _refuse_entries(asked: object) -> NoReturn:
    matrix = "A.select([i]) for a matrix of the batch, " if getattr(asked, "batch", ()) else ""
    raise OperandError(
        f"an operator holds no entries to index or go through; write {matrix}A.to_dense() for all "
        "entries, A.T @ e for the row of a unit vector e, or restrict(A, rows=[i]) for a part of A"
    )


def refuse_term(other: object) -> NoReturn:
    """Raise for what cannot be added to an operator, or subtracted from it.

    Raises:
        OperandError: Always.

    >>> refuse_term(1)
    Traceback (most recent call last):
    jvpsvd.errors.OperandError: 1 cannot be added to an operator, nor subtracted; give an ...
    """
    advice = "c * MatrixOperator(torch.eye(n)) for a multiple c of the identity"
    if isinstance(other, Tensor | np.ndarray):
        advice = "as aslinearoperator makes of a matrix"
    raise OperandError(
        f"{shown(other)} cannot be added to an operator, nor subtracted; give an operator, {advice}"
    )


def real_factor(scalar: object, dtype: torch.dtype) -> float:
    """Return what an operator of this dtype is scaled by.

    Raises:
        OperandError: If it is no real number.
        ArgumentError: If it is not finite, or the dtype cannot hold it.

    >>> real_factor(1j, torch.float32)
    Traceback (most recent call last):
    jvpsvd.errors.OperandError: an operator cannot be scaled by 1j; operators are real: scale by ...
    """
    if not isinstance(scalar, int | float | np.floating | np.integer):
        raise OperandError(f"an operator cannot be scaled by {shown(scalar)}; {_instead(scalar)}")
    try:
        factor = float(scalar)
    except OverflowError:  # a whole number beyond float64
        factor = math.inf
    if not math.isfinite(factor):
        raise ArgumentError(f"cannot scale an operator by {factor}; give a finite number")
    kind = torch.finfo(dtype)
    if factor and not kind.tiny <= abs(factor) <= kind.max:
        wider = "" if dtype == torch.float64 else ", or use float64"
        raise ArgumentError(
            f"{factor:g} is outside of {dtype}, which holds {kind.tiny:.1e} to {kind.max:.1e}; "
            f"scale by a number nearer 1{wider}"
        )
    return factor


def real_divisor(scalar: object, dtype: torch.dtype) -> float:
    """Return what an operator of this dtype is divided by.

    Raises:
        OperandError: If it is no real number.
        ArgumentError: If it is zero, not finite, or the dtype cannot hold it.

    >>> real_divisor(0, torch.float32)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: cannot divide an operator by 0; give a number that is not zero
    """
    if not isinstance(scalar, int | float | np.floating | np.integer):
        raise OperandError(f"an operator cannot be divided by {shown(scalar)}; {_instead(scalar)}")
    divisor = real_factor(scalar, dtype)
    if divisor == 0:
        raise ArgumentError("cannot divide an operator by 0; give a number that is not zero")
    return divisor


def _instead(factor: object) -> str:
    if isinstance(factor, complex | np.complexfloating):
        return "operators are real: scale by the real and the imaginary part apart"
    if isinstance(factor, MissingSigns):
        return "write A @ B for the product of two operators; none has an inverse"
    if isinstance(factor, Tensor | np.ndarray):
        return "give a number, c.item(); vectors are multiplied by A @ V"
    return "give a real number"


def refuse_right_side(other: object) -> NoReturn:
    """Raise for what an operator cannot be multiplied with.

    Raises:
        OperandError: Always.

    >>> refuse_right_side("x")
    Traceback (most recent call last):
    jvpsvd.errors.OperandError: an operator multiplies tensors, arrays and operators, not str; ...
    """
    advice = "give a tensor of vectors, or an operator, as aslinearoperator makes"
    if isinstance(other, int | float | np.generic):
        advice = "write c * A to scale it"
    raise OperandError(
        f"an operator multiplies tensors, arrays and operators, not {type(other).__name__}; "
        f"{advice}"
    )
