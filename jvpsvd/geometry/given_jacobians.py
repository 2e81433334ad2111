"""Jacobians that a caller gives beside the function and the point: whether they belong to these."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator
from jvpsvd.operators.function.evaluate import largest
from jvpsvd.operators.linear_map_operator import LinearMapOperator

Matrix = LinearOperator | Tensor

# A point that is computed twice may differ by this many eps of its largest entry.
_SAME_POINT = 8.0
# Values may differ by this share of the largest one, since TF32 and autocast move them by less, and
# by so many eps of the largest entry of x: where they are about 0, they are rounding.
_SAME_VALUE, _ROUNDING = 0.01, 100.0


def check_jacobian(name: str, J: Matrix, x: Tensor, value: Tensor) -> None:
    """Check that J is of the function whose output has this value (m,) at x.

    An operator of a derivative knows its point and the value there. Of any other one, and of a
    matrix, shape and dtype alone are compared.

    Raises:
        ArgumentError: If it is of another point, function, shape or dtype.

    >>> from jvpsvd import JacobianOperator
    >>> x = torch.tensor([1.0, 2.0])
    >>> check_jacobian("output", JacobianOperator(torch.square, torch.ones(2)), x, x**2)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: jacobian of output was taken at another point, up to 1 from x; \
take it at x, as J.at(x) does
    """
    if not isinstance(J, LinearOperator | Tensor):
        raise ArgumentError(f"jacobian of {name} is {shown(J)}; give an operator or a matrix")
    fits = (value.numel(), x.numel())
    if tuple(J.shape) != fits or J.dtype != x.dtype:
        raise ArgumentError(
            f"jacobian of {name} is {tuple(J.shape)} {J.dtype}; take it at x and at this depth, "
            f"{fits} {x.dtype}"
        )
    if not isinstance(J, LinearMapOperator):
        return
    ulp = torch.finfo(x.dtype).eps * largest(x)
    moved = largest(J.point.to(x.device).flatten() - x.flatten())
    if not moved <= _SAME_POINT * ulp:
        raise ArgumentError(
            f"jacobian of {name} was taken at another point, up to {moved:.2g} from x; take it at "
            "x, as J.at(x) does"
        )
    changed = largest(J.value.to(value.device).flatten() - value.flatten())
    if not changed <= _SAME_VALUE * largest(value) + _ROUNDING * ulp:
        raise ArgumentError(
            f"jacobian of {name} is of another function, or of other weights: its value at x "
            f"differs by up to {changed:.2g}; take it of fn, at this depth"
        )
