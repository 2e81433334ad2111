"""Record a function only once its products have been as much work as a recording is.

Recording takes as long as many products by torch.func. So a small network begins with these. They
are counted, at all points together, and once they have been as much work as a recording, one is
made. No more than about twice the work is done that would have been the least.

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

from torch import Tensor

from jvpsvd.errors import JvpsvdError, TraceError
from jvpsvd.operators.derivatives.linear_map import (
    LinearMap,
    refuse_another_value,
)
from jvpsvd.operators.derivatives.transforms import by_transforms
from jvpsvd.operators.function.count import Work, count_work
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.recording.trace import Trace

logger = logging.getLogger(__name__)

# `python -m benchmarks repeated_points`: recordings took as long as 30 to 60 calls of products
# of one vector each, and a call was about twice as long where each operation had so many flops.
CALLS_OF_RECORDING, _FLOPS_OF_CALL = 32, 2e6
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
    """

    def __init__(
        self, fn: Callable[[Tensor], Tensor], example: Tensor, work: Work, fold: bool, check: bool
    ) -> None:
        self._fn, self._example, self._work = fn, example, work
        self._fold, self._check = fold, check
        self._trace: Trace | None = None
        self._left = float(CALLS_OF_RECORDING)

    def at(self, x: Tensor) -> LinearMap:
        """Return the derivative at a point.

        Raises:
            TraceError: If fn takes another path there than it did when it was recorded.
        """
        if self._trace is not None:
            return self._trace.at(x)[0]
        return self.of(by_transforms(self._fn, x, check=False))

    def of(self, plain: LinearMap) -> LinearMap:
        """Return the derivative at the point of another one, made by torch.func."""
        recorded: list[LinearMap] = []

        def recorded_here() -> LinearMap | None:
            if not recorded and self._record():
                recorded.extend(self._replay(plain))
            return recorded[0] if recorded else None

        def jvp(block: Tensor) -> Tensor:
            ours = recorded_here()
            self._spend(len(block))
            return (plain if ours is None else ours).jvp(block)

        def vjp(block: Tensor) -> Tensor:
            ours = recorded_here()
            self._spend(len(block))
            return (plain if ours is None else ours).vjp(block)

        return LinearMap(plain.point, plain.value, jvp, vjp, at=self.at)

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
        return self._trace is not None

    def _replay(self, plain: LinearMap) -> list[LinearMap]:
        """Return the recorded derivative at the point of another, or nothing where it differs."""
        if self._trace is None:
            return []
        try:
            (ours, *_) = self._trace.at(plain.point)
        except TraceError as error:
            logger.info("going on with vmap(jvp) and vmap(vjp): %s", first_line(error))
            self._trace, self._left = None, math.inf
            return []
        refuse_another_value(ours.value, plain.value)
        return [ours]


def recorded_on_demand(
    fn: Callable[[Tensor], Tensor], x: Tensor, *, fold: bool, check: bool
) -> LinearMap | None:
    """Return the derivative of a small function at x without recording it, or not at once.

    None of a function that is to be recorded at once: a large one, and one that torch.func takes
    badly or not at all.

    >>> import torch
    >>> J = recorded_on_demand(torch.sin, torch.zeros(2), fold=True, check=True)
    >>> J.jvp(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    work = count_work(prepare(fn), x)
    if work is None:
        return None
    vectors = min(work.rows, x.numel(), _USUAL_VECTORS)
    if calls_of_product(work, vectors) >= CALLS_OF_RECORDING:
        return None
    try:
        with warnings.catch_warnings(record=True) as caught:
            plain = by_transforms(fn, x, check=check)
    except Exception:  # whatever it is, recording shows it too
        return None
    if any("batching rule" in str(warning.message) for warning in caught):
        return None
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return RecordedOnDemand(fn, x, work, fold, check).of(plain)


def calls_of_product(work: Work, vectors: int) -> float:
    """Return the work of products by torch.func, in calls with one vector of a small network.

    >>> calls_of_product(Work(calls=4, flops=1000, rows=2), 1)
    1.000125
    """
    return 1 + vectors * work.flops / work.calls / _FLOPS_OF_CALL
