"""A monitor of a solve: it reports progress and measures the time of each phase."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from jvpsvd.operators import Products
from jvpsvd.svd.progress import Progress, Show

# Seconds between reports that are shown again.
_SHOWN_SECONDS = 0.2

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
        self._before, self._whole = 0, 0
        self._shown = -math.inf

    def begin_part(self, before: int, whole: int) -> None:
        """Take what is reported from now on as that of a part of the solve.

        Args:
            before: Number of triplets of the parts before it.
            whole: Number of triplets of all parts.

        >>> monitor = Monitor()
        >>> monitor.begin_part(10, 40)
        >>> monitor.report(5, 10, share=0.5), monitor.history[0].converged, monitor.history[0].share
        (True, 15, 0.375)
        """
        self._before, self._whole = before, whole

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
        if self._whole:
            share = (self._before + share * wanted) / self._whole
            converged, wanted = self._before + converged, self._whole
            seconds_left = None  # of this part, not of those that follow
        products = self._count_products()
        now = Progress(converged, wanted, worst, share, products, seconds_left)
        self.history.append(now)
        return self._ask(now)

    def go_on(self) -> bool:
        """Return whether the solver is to go on where no triplets are found meanwhile.

        A few times a second the last report is shown again, with the products taken since.
        """
        if self.history and time.perf_counter() - self._shown >= _SHOWN_SECONDS:
            self._ask(replace(self.history[-1], products=self._count_products(), seconds_left=None))
        return not self.stopped

    def _ask(self, now: Progress) -> bool:
        """Show progress, and return whether the caller has not asked to stop."""
        answer = None if self._show is None else self._show(now)
        self._shown = time.perf_counter()
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
