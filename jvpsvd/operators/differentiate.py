"""The value and the derivative of a function at a point, checked, in the best way it allows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown
from jvpsvd.errors import AdjointError, ArgumentError, ModelError, TraceError
from jvpsvd.operators.derivatives.adjointness import check_adjoint
from jvpsvd.operators.derivatives.batched_map import BatchedMap, stack_maps
from jvpsvd.operators.derivatives.differences import (
    describe_difference,
    direction,
    output_direction,
)
from jvpsvd.operators.derivatives.linear_map import LinearMap
from jvpsvd.operators.derivatives.reverse_passes import by_reverse_passes
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.environment.repeated_lines import drop_repeated
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.failures import failures_named, first_line, remedy_at
from jvpsvd.operators.function.lower_precision import eps_of_tests
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.operators.function.restoring import restored
from jvpsvd.operators.function.work import Work
from jvpsvd.operators.recording.on_demand import (
    batch_by_transforms,
    batch_recorded_on_demand,
    recorded_on_demand,
)
from jvpsvd.operators.recording.trace import Trace

DerivativeMethod = Literal["auto", "trace", "transforms"]


logger = logging.getLogger(__name__)
logger.addFilter(drop_repeated)

Elsewhere = Callable[[Tensor], LinearMap | BatchedMap]
"""The same derivative at another point, or at other points; a `TraceError` where fn differs."""


class Differentiated(NamedTuple):
    """A derivative, and how to have it at another point; None where that is no less work."""

    linear_map: LinearMap | BatchedMap
    elsewhere: Elsewhere | None


def differentiate(
    fn: OfVector,
    point: Tensor,
    values: Tensor,
    work: Work | None,
    batch_dims: int,
    derivatives: DerivativeMethod,
    fold: bool,
    check: bool,
    recompute: bool = False,
) -> Differentiated:
    """Return the derivative at the point, or at the points of a batch.

    `values` are fn there, and `work` is that of an evaluation, if known.

    Raises:
        ArgumentError: If fn cannot be differentiated.
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.
        TraceError: With derivatives="trace", if fn cannot be recorded.
    """
    if derivatives == "auto" and not batch_dims and not recompute:
        small = recorded_on_demand(fn, point, work, fold=fold, check=check)
        if small is not None:
            return Differentiated(small, small.at)
    if derivatives == "auto" and batch_dims:
        together = batch_recorded_on_demand(fn, point, values, work, fold=fold, check=check)
        if together is not None:
            return Differentiated(*together)
    if derivatives != "transforms":
        try:
            one, its_value = (point[0], values[0]) if batch_dims else (point, values)
            trace = Trace(fn, one, values=(its_value,), fold=fold, check=check, recompute=recompute)
            if batch_dims:
                (here,) = trace.at_many(point, values=[values])
                return Differentiated(here, lambda X: trace.at_many(X)[0])
            # Recorded at this very point, so there is no other path it could have taken.
            return Differentiated(trace.at(point, check=False)[0], lambda x: trace.at(x)[0])
        except TraceError as error:
            if derivatives == "trace":
                raise TraceError(f'{error}; use derivatives="transforms"') from error
            logger.warning("%s; using vmap(jvp) and vmap(vjp), with slower products", error)
    if batch_dims:
        all_points = batch_by_transforms(fn, point, values, work, check=check)
        if all_points is not None and (not check or _passes_at_each_point(all_points)):
            return Differentiated(all_points, None)
        maps = [transformed(fn, x, check=check) for x in point]
        return Differentiated(stack_maps(maps), None)
    return Differentiated(transformed(fn, point, check=check), None)


def _passes_at_each_point(J: BatchedMap) -> bool:
    """Return whether JVPs and VJPs agree at each point, and J v is nowhere 0.

    Where they do not, or it is, the derivative at that point alone is examined, and says why.
    """
    v, u = direction(J.point[0]), output_direction(J.value[0])
    count = len(J.point)
    images = J.jvp(v.expand(count, 1, *v.shape), chunk=count)[:, 0]
    adjoint_products = J.vjp(u.expand(count, 1, *u.shape), chunk=count)[:, 0]
    try:
        for image, adjoint_product in zip(images, adjoint_products, strict=True):
            check_adjoint(v, image, u, adjoint_product)
    except AdjointError:
        return False
    return bool(images.reshape(len(images), -1).any(1).all())


def tell_difference(
    fn: Callable[[Tensor], Any],
    J: LinearMap | BatchedMap,
    value: Tensor | None = None,
    name: str = "",
    evaluate: Callable[[Tensor], Any] | None = None,
) -> bool:
    """Say in the log if products differ from differences of fn, and return whether they do.

    Of several points the first is taken, and all where fn holds what may hide a part of its
    derivative: that part may lie flat at the first one.

    Args:
        fn: The function.
        J: Its derivative.
        value: Its value at the point, or at the first of several, if known.
        name: The name of the function, for the log.
        evaluate: Returns fn at a point, where that is less work than fn itself.

    Raises:
        DerivativeError: If they do, and a part of fn runs under torch.inference_mode.

    >>> fn = lambda x: x + x.detach()
    >>> tell_difference(fn, transformed(fn, torch.ones(2)), name="fn")
    True
    """
    message = find_difference(fn, J, value, evaluate)
    if message is not None:
        logger.warning("%s%s", f"{name}: " if name else "", message)
    return message is not None


def find_difference(
    fn: Callable[[Tensor], Any],
    J: LinearMap | BatchedMap,
    value: Tensor | None = None,
    evaluate: Callable[[Tensor], Any] | None = None,
) -> str | None:
    """Return in words how products differ from differences of fn; None where they do not.

    Args, and what is raised, are those of `tell_difference`.

    >>> fn = lambda x: x + x.detach()
    >>> find_difference(fn, transformed(fn, torch.ones(2))).split(";")[0]
    'products explain only a part of how fn moves (50 % is missing)'
    """
    check_function(fn)
    if not isinstance(J, LinearMap | BatchedMap):
        raise ArgumentError(
            f"J is {shown(J)}; give the derivative of fn, as transformed(fn, x) returns"
        )
    with failures_named("fn", "give the function that J is the derivative of"):
        return _describe(fn, J, value, evaluate)


def _describe(
    fn: Callable[[Tensor], Any],
    J: LinearMap | BatchedMap,
    value: Tensor | None,
    evaluate: Callable[[Tensor], Any] | None,
) -> str | None:
    of_point, prepared = None if evaluate is None else prepare(evaluate), prepare(fn)
    jvps, eps = _make_jvps(fn), eps_of_tests(J.lower_precision, J.point.dtype)
    if isinstance(J, LinearMap):
        image = None if J.probed is None else J.probed[1]
        return describe_difference(prepared, J.point, J.jvp, jvps, value, image, of_point, eps)
    points = len(J.point) if len(J.point) > 1 and find_obstacles(prepared, J.point[0]) else 1
    for index, x in enumerate(J.point[:points]):
        products = _products_at(J, index)
        own = value if index == 0 else None
        found = describe_difference(prepared, x, products, jvps, own, evaluate=of_point, eps=eps)
        if found is not None:
            return found if index == 0 else f"at point {index} of the batch {found}"
    return None


def _products_at(J: BatchedMap, index: int) -> Callable[[Tensor], Tensor]:
    """Return the JVPs at one of several points."""
    one = J.select(torch.tensor([index], device="cpu"))
    return lambda v: one.jvp(v[None], chunk=len(v))[0]


def _make_jvps(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """Return a function that takes a point to the JVPs of fn there, by any way that works."""

    def at(x: Tensor) -> Callable[[Tensor], Tensor]:
        try:
            return by_transforms(fn, x, check=False).jvp
        except (ArgumentError, RuntimeError):
            return by_reverse_passes(fn, x, check=False).jvp

    return at


def transformed(fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True) -> LinearMap:
    """Return the derivative by torch.func, or by plain reverse passes where that fails.

    Raises:
        ArgumentError: If both fail.
        ModelError: If fn fails at x.
        AdjointError: If JVPs and VJPs are not of one matrix.
    """
    check_function(fn)
    dense_tensor("the point x", x)
    with restored(fn, x.device), failures_named("fn", partial(remedy_at, fn, x)):
        return _transform(fn, x, check)


def _transform(fn: Callable[[Tensor], Tensor], x: Tensor, check: bool) -> LinearMap:
    try:
        return by_transforms(fn, x, check=check)
    except (ArgumentError, RuntimeError) as error:
        of_user = isinstance(error, ModelError) and not isinstance(error.__cause__, RuntimeError)
        if of_user or isinstance(error, AdjointError):
            raise
        try:
            J = by_reverse_passes(fn, x, check=check)
        except (ArgumentError, AdjointError) as second:
            raise (error if isinstance(error, ArgumentError) else second) from second
        reason = first_line(error.__cause__ or error)  # as torch said it
        logger.warning("torch.func cannot take fn (%s); using slow reverse passes", reason)
        return J
