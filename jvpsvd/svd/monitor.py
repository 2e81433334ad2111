"""A monitor of a solve: it reports progress and measures the time of each phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from jvpsvd.svd.progress import Progress, Show

Phase = Literal["products", "orthogonalisation", "projected problem", "vectors", "checks"]


class Monitor:
    """Record what a solver reports, and pass progress on to the caller.

    Args:
        show: Called with every `Progress`; if it returns False, the solver stops early.

    >>> monitor = Monitor()
    >>> with monitor.phase("orthogonalisation"), monitor.phase("products"):
    ...     time.sleep(0.01)
    >>> monitor.seconds["products"] > 0.01 > monitor.seconds["orthogonalisation"]
    True
    """

    def __init__(self, show: Show | None = None) -> None:
        self._show = show
        self._running: list[Phase] = []
        self._mark = 0.0
        self.history: list[Progress] = []
        """Every report so far."""
        self.seconds: dict[Phase, float] = {}
        """Wall time of each phase. The time of a nested phase counts for the inner phase only."""

    def report(self, progress: Progress) -> bool:
        """Show progress, and return whether the solver should continue."""
        self.history.append(progress)
        return self._show is None or self._show(progress) is not False

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
            running = self._running[-1]
            self.seconds[running] = self.seconds.get(running, 0.0) + now - self._mark
        self._mark = now
