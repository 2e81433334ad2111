"""Products that are counted and timed, and stop at a deadline, for any library."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

from benchmarks.problems.problem import Direction
from jvpsvd import LinearOperator


class OutOfTimeError(Exception):
    """The budget of a solve was spent."""


@dataclass
class Meter:
    """The vectors multiplied so far and the seconds this took; `deadline` ends the solve."""

    forward: int = 0
    reverse: int = 0
    seconds: float = 0.0
    deadline: float | None = None
    expired: bool = False

    def start(self, budget_seconds: float | None) -> None:
        """Begin again from nothing."""
        self.forward = self.reverse = 0
        self.seconds = 0.0
        self.expired = False
        self.deadline = None if budget_seconds is None else time.perf_counter() + budget_seconds

    def product(self, direction: Direction, width: int, work: Callable[[], Any]) -> Any:
        """Return what `work` returns, counted as `width` products.

        Raises:
            OutOfTimeError: If the deadline is past.
        """
        self.check()
        began = time.perf_counter()
        result = work()
        self.seconds += time.perf_counter() - began
        if direction == "forward":
            self.forward += width
        else:
            self.reverse += width
        return result

    def check(self) -> None:
        """End the solve if its time is over.

        Raises:
            OutOfTimeError: If the deadline is past.
        """
        if self.deadline is not None and time.perf_counter() > self.deadline:
            self.expired = True
            raise OutOfTimeError("the budget was spent")


class MeteredOperator(LinearOperator):
    """An operator whose products go through a meter; nothing else about it changes."""

    def __init__(self, inner: LinearOperator, meter: Meter) -> None:
        super().__init__(inner.shape, inner.dtype, inner.device)
        self._inner, self._meter = inner, meter

    @property
    def chunk(self) -> int | None:
        """The chunk of the wrapped operator."""
        return self._inner.chunk

    def _matmat(self, V: Tensor) -> Tensor:
        work = lambda: _finished(self._inner.matmat(V))  # noqa: E731
        return self._meter.product("forward", _vectors(V), work)

    def _rmatmat(self, U: Tensor) -> Tensor:
        work = lambda: _finished(self._inner.rmatmat(U))  # noqa: E731
        return self._meter.product("reverse", _vectors(U), work)

    @property
    def selection_bytes(self) -> int | None:
        """That of the wrapped operator."""
        return self._inner.selection_bytes

    def _select(self, index: Tensor) -> LinearOperator:
        return MeteredOperator(self._inner.select(index), self._meter)


def meter_scipy(inner: sla.LinearOperator, meter: Meter) -> sla.LinearOperator:
    """Return SciPy's operator with products that go through a meter."""

    def through(direction: Direction, product: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def multiply(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            width = block.shape[1] if block.ndim == 2 else 1
            return meter.product(direction, width, lambda: product(block))

        return multiply

    return sla.LinearOperator(
        shape=inner.shape,
        dtype=inner.dtype,
        matvec=through("forward", inner.matvec),
        matmat=through("forward", inner.matmat),
        rmatvec=through("reverse", inner.rmatvec),
        rmatmat=through("reverse", inner.rmatmat),
    )


def _vectors(block: Tensor) -> int:
    return block.shape[-1] * (block.shape[0] if block.ndim == 3 else 1)


def _finished(block: Tensor) -> Tensor:
    if block.device.type == "cuda":
        torch.cuda.synchronize(block.device)
    return block
