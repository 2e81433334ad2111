"""Linearize a function at a point: evaluate it, differentiate it, and check both."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.blocks import COMPLEX_FUNCTION
from jvpsvd.operators.derivatives.batched_map import BatchedMap
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.differentiate import Derivatives, differentiate, tell_difference
from jvpsvd.operators.function.evaluate import close, evaluate_at, prepare, refuse_nondeterministic
from jvpsvd.operators.function.failures import failures_named, remedy_at
from jvpsvd.operators.function.parameters import OfParameters
from jvpsvd.operators.function.pytrees import OfVector, Structure
from jvpsvd.operators.function.restoring import restored


class LinearizeOptions(NamedTuple):
    """The options of linearizing a function; see `JacobianOperator`."""

    batch_dims: int
    derivatives: Derivatives
    fold: bool
    check: bool


class Linearized(NamedTuple):
    """The derivative of a function, and the structures of its point and value."""

    linear_map: LinearMap | BatchedMap
    source: Structure | None
    target: Structure | None


def linearize(
    fn: Callable[..., Any],
    of_first: Callable[[Any], Any],
    x: Any,
    dtype: torch.dtype | None,
    options: LinearizeOptions,
) -> Linearized:
    """Return the derivative of a function at a point, or at the points of a batch.

    Args:
        fn: The function as the user gave it, whose modules are named in errors.
        of_first: The same as a function of its first argument alone, which is differentiated.
        x: The point or the points, of tensors in any structure.
        dtype: What x is converted to; None to leave it as it is.
        options: The options.

    Raises:
        ArgumentError: If x is not real floating, or fn gives two values for one point.
    """
    batch_dims, derivatives, fold, check = options
    source: Structure | None = None
    if is_array(x):
        x = tensor_of("the point x", x)
    elif not isinstance(x, Tensor):
        source, x = Structure.of(x, "the point x", batch_dims)
    _check_point(x, batch_dims)
    point = x.detach().to(dtype or x.dtype, copy=True)  # the caller may go on to change x
    of_vector = OfVector(of_first, source)
    remedy = partial(_remedy, fn, of_vector, point, batch_dims)
    with restored(fn, point.device), failures_named("fn", remedy):
        values = evaluate_at(fn, of_vector, point, batch_dims)
        one, its_value = (point[0], values[0]) if batch_dims else (point, values)
        with torch.no_grad():
            deterministic = close(prepare(of_vector)(one), its_value)
        if not deterministic:
            refuse_nondeterministic(fn, of_vector, one)
        J = differentiate(of_vector, point, batch_dims, derivatives, fold, check)
        pairs = zip(J.value, values, strict=True) if batch_dims else [(J.value, values)]
        if not all(close(*pair) for pair in pairs):
            refuse_nondeterministic(fn, of_vector, one)
        if check:
            tell_difference(of_vector, J, its_value)
    return Linearized(J, source, of_vector.target)


def _check_point(x: Tensor, batch_dims: int) -> None:
    dense_tensor("the point x", x)
    if not x.is_floating_point() or x.numel() == 0:
        raise ArgumentError(
            "the point x must be a non-empty tensor of a real floating dtype, got "
            f"{x.dtype} {tuple(x.shape)}{f'; {COMPLEX_FUNCTION}' if x.is_complex() else ''}"
        )
    if x.ndim < batch_dims:
        raise ArgumentError("x has no dimension; batch_dims=1 takes points along its first one")


def _remedy(fn: Callable[..., Any], of_vector: OfVector, point: Tensor, batch_dims: int) -> str:
    """Return what to do about a function that fails: a batch may be wanted."""
    if isinstance(fn, OfParameters):  # the point is that of the parameters
        return remedy_at(lambda x: fn.at_input(x, of_vector.tree(point)), fn.input)
    return remedy_at(of_vector, point[0] if batch_dims else point, batch_dims)
