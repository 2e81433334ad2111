"""The value and the derivative of a function at a point, checked, in the best way it allows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from jvpsvd.errors import AdjointError, ArgumentError, NonFiniteError, TraceError
from jvpsvd.operators.admission import check_function
from jvpsvd.operators.arguments import dense_tensor, shown
from jvpsvd.operators.batch import BatchedMap, batched, stack_values
from jvpsvd.operators.derivatives import (
    LinearMap,
    by_transforms,
    check_output,
    prepared,
)
from jvpsvd.operators.diagnosis import first_not_finite, first_unsteady, states
from jvpsvd.operators.differences import difference_in_words
from jvpsvd.operators.failures import failures_named, first_line, remedy_at
from jvpsvd.operators.restoring import restored
from jvpsvd.operators.reverse_passes import by_reverse_passes
from jvpsvd.operators.trace import Trace
from jvpsvd.operators.trees import OfVector

Derivatives = Literal["auto", "trace", "transforms"]

logger = logging.getLogger(__name__)


def evaluated(
    fn: Callable[..., Any], of_vector: OfVector, point: Tensor, batch_dims: int
) -> Tensor:
    """Return fn at the point, or at the points, checked."""
    evaluate, before = prepared(of_vector), states(fn)
    with torch.no_grad():
        values = [check_output(evaluate(z)) for z in (point if batch_dims else [point])]
    for name, state in states(fn).items():
        if state != before.get(name):
            raise ArgumentError(
                f"{name} changes its buffers whenever it is evaluated; call model.eval(), or take "
                "out what keeps state"
            )
    value = (stack_values(values) if batch_dims else values[0]).detach()

    def blame() -> str | None:
        bad = next(z for z, v in zip(point, values, strict=True) if not v.isfinite().all())
        return first_not_finite(fn, lambda: evaluate(bad))

    def blame_one() -> str | None:
        return first_not_finite(fn, lambda: evaluate(point))

    check_value(point, value, batch_dims, blame if batch_dims else blame_one)
    return value


def differentiated(
    fn: OfVector,
    point: Tensor,
    batch_dims: int,
    derivatives: Derivatives,
    fold: bool,
    check: bool,
) -> LinearMap | BatchedMap:
    """Return the derivative at the point, or at the points of a batch.

    Raises:
        ArgumentError: If fn cannot be differentiated.
        AdjointError: If forward and reverse products are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: With derivatives="trace", if fn cannot be recorded.
    """
    if derivatives != "transforms":
        try:
            if batch_dims:
                return Trace(fn, point[0], fold=fold, check=check).at_many(point)[0]
            # Recorded at this very point, so there is no other path it could have taken.
            return Trace(fn, point, fold=fold, check=check).at(point, check=False)[0]
        except TraceError as error:
            if derivatives == "trace":
                raise
            logger.warning("%s; using vmap(jvp) and vmap(vjp), with slower products", error)
    if batch_dims:
        return batched([transformed(fn, x, check=check) for x in point])
    return transformed(fn, point, check=check)


def tell_difference(
    fn: Callable[[Tensor], Any],
    J: LinearMap | BatchedMap,
    value: Tensor | None = None,
    name: str = "",
) -> None:
    """Say in the log if products differ from differences of fn, at the first of several points.

    Args:
        fn: The function.
        J: Its derivative.
        value: Its value at the point, or at the first of several, if known.
        name: Of the function, for the log.

    Raises:
        DerivativeError: If they do, and a part of fn runs under torch.inference_mode.

    >>> fn = lambda x: x + x.detach()
    >>> tell_difference(fn, transformed(fn, torch.ones(2)), name="fn")
    """
    check_function(fn)
    if not isinstance(J, LinearMap | BatchedMap):
        raise ArgumentError(
            f"J is {shown(J)}; give the derivative of fn, as transformed(fn, x) returns"
        )
    with failures_named("fn", "give the function that J is the derivative of"):
        told = _difference(fn, J, value)
    if told is not None:
        logger.warning("%s%s", f"{name}: " if name else "", told)


def _difference(
    fn: Callable[[Tensor], Any], J: LinearMap | BatchedMap, value: Tensor | None
) -> str | None:
    if isinstance(J, BatchedMap):
        first = J.select(torch.tensor([0], device="cpu"))
        x = J.point[0]
        return difference_in_words(
            prepared(fn), x, lambda v: first.push(v[None], chunk=len(v))[0], _products(fn), value
        )
    return difference_in_words(prepared(fn), J.point, J.push, _products(fn), value)


def _products(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """Return the products of fn at any point, by whichever way there is, without a word."""

    def at(x: Tensor) -> Callable[[Tensor], Tensor]:
        try:
            return by_transforms(fn, x, check=False).push
        except (ArgumentError, RuntimeError):
            return by_reverse_passes(fn, x, check=False).push

    return at


def refuse_unsteady(fn: Callable[..., Any], of_vector: OfVector, x: Tensor) -> None:
    """Raise for a function that gives two values at x, naming the module where it can be seen.

    Raises:
        ArgumentError: Always.
    """
    blamed = first_unsteady(fn, lambda: prepared(of_vector)(x))
    raise ArgumentError(
        f"{blamed or 'fn'} gave two different values at the same point; it is random, keeps "
        "state, or its weights have changed meanwhile"
    )


def fixing(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> Callable[[Any], Any]:
    """Return fn as a function of its first argument alone."""
    named = dict(kwargs or {})
    if not args and not named:
        return fn
    return lambda x: fn(x, *args, **named)


def transformed(fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True) -> LinearMap:
    """Return the derivative by torch.func, or by plain reverse passes where that cannot be.

    Raises:
        ArgumentError: If neither can be.
        ModelError: If fn fails at x.
        AdjointError: If forward and reverse products are not of one matrix.
    """
    check_function(fn)
    dense_tensor("the point x", x)
    with restored(fn, x.device), failures_named("fn", partial(remedy_at, fn, x)):
        return _transformed(fn, x, check)


def _transformed(fn: Callable[[Tensor], Tensor], x: Tensor, check: bool) -> LinearMap:
    try:
        return by_transforms(fn, x, check=check)
    except (ArgumentError, RuntimeError) as error:
        if isinstance(error, AdjointError):
            raise
        try:
            J = by_reverse_passes(fn, x, check=check)
        except (ArgumentError, AdjointError) as second:
            raise (error if isinstance(error, ArgumentError) else second) from second
        reason = first_line(error.__cause__ or error)  # as torch said it
        logger.warning("torch.func cannot take fn (%s); using slow reverse passes", reason)
        return J


def check_value(
    point: Tensor, value: Tensor, dims: int, blame: Callable[[], str | None] | None
) -> None:
    """Check that a value has a Jacobian at its point; `blame` names the module at fault.

    Raises:
        ArgumentError: If dtype or device are not those of the point.
        NonFiniteError: If it holds NaN or infinity.
    """
    if value.dtype != point.dtype:
        raise ArgumentError(
            f"fn maps {point.dtype} to {value.dtype}; give x and the weights in the dtype that fn "
            "computes in, or let it return y.to(x.dtype)"
        )
    if value.device != point.device:
        raise ArgumentError(
            f"fn takes x on {point.device} to {value.device}; keep its output where x is"
        )
    if not torch.isfinite(value).all():
        blamed = blame() if blame else None
        raise NonFiniteError(
            f"the function's value at {_not_finite(value) if dims else 'the point'} holds NaN "
            + (f"or infinity, which {blamed} made first; " if blamed else "or infinity; ")
            + "check the input and the weights before taking derivatives"
        )


def _not_finite(values: Tensor) -> str:
    """Return in words at which points of a batch there is NaN or infinity."""
    finite = torch.isfinite(values).flatten(1).all(1)
    bad = (~finite).nonzero().flatten().tolist()
    named = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
    return f"point{'s' if len(bad) > 1 else ''} {named} of the batch"
