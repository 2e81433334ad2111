"""A monitor of a solve: it reports progress and measures the time of each phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np

from jvpsvd.operators import Products
from jvpsvd.svd.progress import Progress, Show

Phase = Literal["products", "orthogonalisation", "projected problem", "vectors", "checks"]


class Monitor:
    """Record what a solver reports, and pass progress on to the caller.

    Args:
        show: Takes every `Progress`; if it returns False, the solver is to stop.
        count_products: Returns the products taken since the solve began.

    >>> monitor = Monitor()
    >>> with monitor.phase("orthogonalisation"), monitor.phase("products"):
    ...     time.sleep(0.01)
    >>> monitor.seconds["products"] > 0.01 > monitor.seconds["orthogonalisation"]
    True
    """

    def __init__(
        self,
        show: Show | None = None,
        count_products: Callable[[], Products] = lambda: Products(0, 0),
    ) -> None:
        self._show, self._count_products = show, count_products
        self._running: list[Phase] = []
        self._mark = 0.0
        self.stopped = False
        """Whether the caller has asked to stop."""
        self.history: list[Progress] = []
        """Every report so far."""
        self.seconds: dict[Phase, float] = dict.fromkeys(get_args(Phase), 0.0)
        """Wall time of each phase; a phase within another one counts for itself alone."""

    def report(
        self,
        converged: int,
        wanted: int,
        *,
        share: float,
        worst: float | None = None,
        seconds_left: float | None = None,
    ) -> bool:
        """Show progress (see `Progress`), and return whether the solver is to go on."""
        products = self._count_products()
        now = Progress(converged, wanted, worst, share, products, seconds_left)
        self.history.append(now)
        answer = None if self._show is None else self._show(now)
        self.stopped |= isinstance(answer, bool | np.bool_) and not answer
        return not self.stopped

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Add the time of a block of code to a phase."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def _settle(self) -> None:
        """Add the time since the last change of phase to the current phase."""
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._mark
        self._mark = now
