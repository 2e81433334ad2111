"""Signals that ask a process to stop, none of which is lost, and none of which comes too late.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is a finaliser or
a callback of C code, the exception is printed and forgotten. So the signal is also remembered, and
raised again when the run next reports its progress. A second signal would be raised while the first
is still being handled, and a third while the interpreter ends, which prints a traceback.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jvpsvd.survey.progress.display import ReportProgress, RunProgress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A second Ctrl-C within so many seconds means the same as the first.
_SAME_SECONDS = 3.0


class Interruption:
    """Signals as KeyboardInterrupt, until the process is about to end."""

    def __init__(self) -> None:
        self.received = False
        """Whether a signal has come."""
        self._ending = False
        self._raised = -_SAME_SECONDS

    def end(self) -> None:
        """Ignore signals from now on: the process says its last line and ends."""
        self._ending = True
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:  # a handler in Python goes before the process does
                signal.signal(number, signal.SIG_IGN)

    def checked(self, report: ReportProgress) -> ReportProgress:
        """Return the function, made to raise KeyboardInterrupt after a signal."""

        def checked(progress: RunProgress) -> None:
            if self.received:
                raise KeyboardInterrupt
            report(progress)

        return checked

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM; put their handlers back, unless the process is to end."""
        main = threading.current_thread() is threading.main_thread()  # only it may have handlers
        numbers = _SIGNALS if main else ()
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            if not self._ending:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        now = time.monotonic()
        if not self._ending and now - self._raised >= _SAME_SECONDS:
            self._raised = now
            raise KeyboardInterrupt


@contextmanager
def interruptible(report: ReportProgress) -> Iterator[ReportProgress]:
    """Yield the function, made to raise KeyboardInterrupt after SIGINT or SIGTERM.

    For the main thread of a command; a library leaves signals to its user.
    """
    interruption = Interruption()
    with interruption.installed():
        yield interruption.checked(report)
