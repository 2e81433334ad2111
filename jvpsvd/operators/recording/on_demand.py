"""Record a function only once its products have been as much work as a recording is.

Recording takes as long as many products by torch.func. So a small network begins with these. They
are counted, at all points together, and once a recording would have saved as much as it takes, one
is made. No more than about twice the work is done that would have been the least. Products at many
points are taken in one call, those of a batch, and those at a point and at some moved by rounding.

(A small J is not written down, although that would be quickest: JVPs and VJPs that are computed
apart show the digits that they lose, and the products of a matrix do not.)

What decides is counted, never timed: the same products of the same network are always computed in
the same way.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

import torch
from torch import Tensor

from jvpsvd.errors import JvpsvdError, TraceError
from jvpsvd.operators.blocks import Selection
from jvpsvd.operators.derivatives.batched_map import BatchedMap, BatchedProduct
from jvpsvd.operators.derivatives.linear_map import LinearMap, refuse_another_value
from jvpsvd.operators.derivatives.points_together import (
    differentiate_together,
    multiply_together,
)
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.lower_precision import Rounding
from jvpsvd.operators.function.work import Work
from jvpsvd.operators.recording.sizes import AnotherSizeError
from jvpsvd.operators.recording.trace import Trace
from jvpsvd.operators.recording.verify_replay import compare_values, verify_points_together

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

# In times that torch.func takes for one operation of a product: to record an operation; and what a
# replay saves of an operation, of a call from Python that leads to some, and of a whole product.
# Guesses, fitted to timings of seven networks. `python -m benchmarks repeated_points` has small
# ones.
OPERATION_OF_RECORDING, _SAVED, _OF_FUNCTION, _OF_PRODUCT = 60, 0.6, 3.0, 20.0
# Operations that a recording itself adds.
_OWN_OPERATIONS = 8
# A product takes about twice as long where each operation has so many flops.
_FLOPS_OF_CALL = 2e6
# A network is small if products of so many vectors, or of its shorter side, are less work.
_USUAL_VECTORS = 32


class RecordedOnDemand:
    """The derivative of a function at any point: by torch.func at first, later by a recording.

    Args:
        fn: The function.
        example: The point at which it is recorded.
        work: The work of its evaluation.
        fold: See `Trace`.
        check: See `Trace`.
        trace: The recordings of fn that there are, if any.
        index: Of fn among the outputs of `trace`.
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor],
        example: Tensor,
        work: Work,
        fold: bool = True,
        check: bool = True,
        trace: Trace | None = None,
        index: int = 0,
    ) -> None:
        self._fn, self._example, self._work = fn, example, work
        self._fold, self._check = fold, check
        self._rounding = Rounding(prepare(fn))
        self._trace, self._index = trace, index
        self._recordings = 0
        """How many were made here."""
        self._left = calls_of_recording(work)
        self._points_together = True  # until it fails

    def at(self, x: Tensor) -> LinearMap:
        """Return the derivative at a point.

        Raises:
            TraceError: If fn takes another path there than it did when it was recorded.
        """
        if self._trace is not None:
            with suppress(AnotherSizeError):
                J = self._trace.at(x, anew=False)[self._index]
                return replace(J, nearby=self._nearby)
        return self.of(by_transforms(self._fn, x, check=self._check))

    def of(self, plain: LinearMap) -> LinearMap:
        """Return the derivative at the point of another one, made by torch.func."""
        recorded: list[LinearMap] = []
        tried = self._recordings

        def recorded_here() -> LinearMap | None:
            nonlocal tried
            if not recorded and (self._left <= 0 or tried < self._recordings):
                recorded.extend(self._replay(plain))
                tried = self._recordings
            return recorded[0] if recorded else None

        def jvp(block: Tensor) -> Tensor:
            ours = recorded_here()
            self._spend(len(block))
            return (plain if ours is None else ours).jvp(block)

        def vjp(block: Tensor) -> Tensor:
            ours = recorded_here()
            self._spend(len(block))
            return (plain if ours is None else ours).vjp(block)

        return LinearMap(
            plain.point,
            plain.value,
            jvp,
            vjp,
            at=self.at,
            nearby=self._nearby,
            probed=plain.probed,
            widest=self._work.widest,
        )

    def _nearby(self, X: Tensor, block: Tensor, transposed: bool) -> Tensor | None:
        """Return the products of a block at several points, None if `torch.func.vmap` fails."""
        if not self._points_together:
            return None
        vectors = block.expand(len(X), *block.shape)
        found = _try(lambda: multiply_together(prepare(self._fn), X, vectors, transposed))
        if found is None:
            self._points_together = False
            return None
        self._spend(len(X) * len(block))
        return found[1]

    def at_many(self, X: Tensor) -> BatchedMap:
        """Return the derivatives at the points of a batch.

        Raises:
            TraceError: If fn takes another path at one of them than where it was recorded.
        """
        if self._trace is not None:
            return self._trace.at_many(X)[0]
        plain = self.of_many(differentiate_together(self._fn, X, self._work.widest))
        for index, (x, value) in enumerate(zip(X, plain.value, strict=True)):
            with torch.no_grad():
                own = prepare(self._fn)(x)
            compare = partial(compare_values, [value], [own], f"point {index} of the batch")
            self._rounding.judge(lambda eps, compare=compare: compare(eps=eps), x)  # type: ignore[misc]
        return plain

    def of_many(self, plain: BatchedMap) -> BatchedMap:
        """Return the derivatives at the points of others, made by torch.func."""

        @cache
        def recorded_here() -> BatchedMap | None:
            if self._trace is None:
                return None
            (ours,) = self._trace.at_many(plain.point, check=False)
            eps = partial(self._rounding.eps_at, plain.point[0])
            refuse_another_value(ours.value, plain.value, eps)
            return ours

        def recorded() -> BatchedMap | None:
            return recorded_here() if self._record() else None

        def product(which: Callable[[BatchedMap], BatchedProduct]) -> BatchedProduct:
            return _ProductOnDemand(
                which(plain),
                lambda: None if (ours := recorded()) is None else which(ours),
                self._spend,
            )

        def elsewhere(Z: Tensor) -> BatchedMap:
            return self.of_many(differentiate_together(self._fn, Z, self._work.widest))

        return replace(
            plain,
            jvp_product=product(lambda J: J.jvp_product),
            vjp_product=product(lambda J: J.vjp_product),
            at=elsewhere,
        )

    def _spend(self, vectors: int) -> None:
        self._left -= calls_of_product(self._work, vectors)

    def _record(self) -> bool:
        """Return whether there is a recording, made now if that pays."""
        if self._trace is None and self._left <= 0:
            try:
                self._trace = Trace(self._fn, self._example, fold=self._fold, check=self._check)
            except JvpsvdError as error:
                logger.info("going on with vmap(jvp) and vmap(vjp): %s", first_line(error))
                self._left = math.inf
            self._recordings += 1
        return self._trace is not None

    def _replay(self, plain: LinearMap) -> list[LinearMap]:
        """Return the recorded derivative at the point of another, or nothing where it differs.

        Where values decide on other sizes there, it is recorded if that pays.
        """
        anew = self._left <= 0
        if not self._record() or self._trace is None:
            return []
        try:
            ours = self._trace.at(plain.point, anew=anew)[self._index]
        except AnotherSizeError:
            return []
        except JvpsvdError as error:
            logger.info("going on with vmap(jvp) and vmap(vjp): %s", first_line(error))
            self._trace, self._left = None, math.inf
            return []
        if anew:
            self._recordings += 1
            self._left = calls_of_recording(self._work)  # until another one pays
        eps = partial(self._rounding.eps_at, plain.point)
        refuse_another_value(ours.value, plain.value, eps)
        return [ours]


class _ProductOnDemand:
    """A product at many points by torch.func, until it is one by a recording."""

    together = True

    def __init__(
        self,
        plain: BatchedProduct,
        recorded: Callable[[], BatchedProduct | None],
        spend: Callable[[int], None],
    ) -> None:
        self._plain, self._recorded, self._spend = plain, recorded, spend

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        ours = self._recorded()
        self._spend(block.shape[0] * block.shape[1])
        return (self._plain if ours is None else ours)(block, points)

    def select(self, chosen: Selection) -> BatchedProduct:
        selected: list[BatchedProduct] = []

        def recorded() -> BatchedProduct | None:
            ours = self._recorded()
            if ours is not None and not selected:
                selected.append(ours.select(chosen))
            return selected[0] if selected else None

        return _ProductOnDemand(self._plain.select(chosen), recorded, self._spend)


def recorded_on_demand(
    fn: Callable[[Tensor], Tensor], x: Tensor, work: Work | None, *, fold: bool, check: bool
) -> LinearMap | None:
    """Return the derivative of a small function at x without recording it, or not at once.

    None of a function that is to be recorded at once: a large one, one whose work is not known, and
    one that torch.func takes badly or not at all.

    >>> work = Work(calls=1, functions=1, flops=2, rows=2, widest=2)
    >>> J = recorded_on_demand(torch.sin, torch.zeros(2), work, fold=True, check=True)
    >>> J.jvp(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    if work is None or not is_small(work, x, 1):
        return None
    plain = _try(lambda: by_transforms(fn, x, check=check))
    if plain is None:
        return None
    return RecordedOnDemand(fn, x, work, fold, check).of(plain)


def batch_recorded_on_demand(
    fn: Callable[[Tensor], Tensor],
    X: Tensor,
    values: Tensor,
    work: Work | None,
    *,
    fold: bool,
    check: bool,
) -> tuple[BatchedMap, Callable[[Tensor], BatchedMap]] | None:
    """Return the derivatives of a small function at the points of a batch, and those at others.

    None of a function that is to be recorded at once, as by `recorded_on_demand`, and of one that
    `torch.func.vmap` cannot take, or has other values by it.

    Args:
        fn: The function of one point.
        X: The points.
        values: fn at each of them.
        work: Of fn at one of them, if known.
        fold: See `Trace`.
        check: See `Trace`.

    >>> X, work = torch.zeros(3, 2), Work(calls=1, functions=1, flops=2, rows=2, widest=2)
    >>> J, _ = batch_recorded_on_demand(torch.sin, X, X, work, fold=True, check=True)
    >>> J.jvp(torch.ones(3, 1, 2), chunk=8).shape
    torch.Size([3, 1, 2])
    """
    plain = batch_by_transforms(fn, X, values, work, check=check)
    if plain is None or work is None:
        return None
    demand = RecordedOnDemand(fn, X[0], work, fold, check)
    return demand.of_many(plain), demand.at_many


def batch_by_transforms(
    fn: Callable[[Tensor], Tensor], X: Tensor, values: Tensor, work: Work | None, *, check: bool
) -> BatchedMap | None:
    """Return the derivatives of a small function at the points of a batch, all in one call.

    None of any other function, as by `batch_recorded_on_demand`, whose arguments these are.

    >>> X, work = torch.zeros(3, 2), Work(calls=1, functions=1, flops=2, rows=2, widest=2)
    >>> J = batch_by_transforms(torch.sin, X, X, work, check=True)
    >>> J.jvp(torch.ones(3, 1, 2), chunk=8).shape
    torch.Size([3, 1, 2])
    """
    if work is None or not is_small(work, X[0], len(X)):
        return None
    rounding = Rounding(prepare(fn))

    def differentiate() -> BatchedMap:
        J = differentiate_together(fn, X, work.widest)
        verify = partial(verify_points_together, lambda x: [by_transforms(fn, x, check=check)])
        rounding.judge(lambda eps: verify(X, [J], eps), X[0])
        return J

    plain = _try(differentiate)
    if plain is None:
        return None
    try:
        rounding.judge(partial(_compare, plain.value, values), X[0])
    except TraceError:
        return None
    return plain


def _compare(ours: Tensor, theirs: Tensor, eps: float | None) -> None:
    compare_values([*ours], [*theirs], eps=eps)


def is_small(work: Work, x: Tensor, points: int) -> bool:
    """Return whether a function is not to be recorded at once.

    >>> is_small(Work(calls=4, functions=4, flops=1000, rows=2, widest=2), torch.zeros(2), points=1)
    True
    """
    vectors = points * min(work.rows, x.numel(), _USUAL_VECTORS)
    return calls_of_product(work, vectors) < calls_of_recording(work)


def _try(differentiate: Callable[[], Found]) -> Found | None:
    """Return what is had by torch.func; None where that fails or is slow."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            found = differentiate()
    except Exception:  # whatever it is, recording shows it too
        return None
    if any("batching rule" in str(warning.message) for warning in caught):
        return None
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return found


def calls_of_product(work: Work, vectors: int) -> float:
    """Return the work of products by torch.func, in calls with one vector of a small network.

    >>> calls_of_product(Work(calls=4, functions=4, flops=1000, rows=2, widest=2), 1)
    1.000125
    """
    return 1 + vectors * work.flops / work.calls / _FLOPS_OF_CALL


def calls_of_recording(work: Work) -> float:
    """Return in how many calls with one vector a recording saves as much as it takes.

    These are most for layers that do thousands of operations by themselves, as recurrent ones do:
    torch.func takes little time for each of them.

    >>> round(calls_of_recording(Work(calls=500, functions=500, flops=0, rows=2, widest=2)))
    17
    >>> round(calls_of_recording(Work(calls=500, functions=1, flops=0, rows=2, widest=2)))
    94
    """
    saved = _SAVED * work.calls + _OF_FUNCTION * work.functions + _OF_PRODUCT
    return OPERATION_OF_RECORDING * (work.calls + _OWN_OPERATIONS) / saved
