"""Signals that ask a run to stop, none of which is lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. Where that is a finaliser or
a callback of C code, the exception is printed and forgotten. So the signal is also remembered, and
raised again at the next look at the run.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jvpsvd.survey.watch import Look, Watch

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible(watch: Watch) -> Iterator[Watch]:
    """Yield the watch, made to raise KeyboardInterrupt after SIGINT or SIGTERM.

    For the main thread of a command; a library leaves signals to its user.
    """
    asked: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise KeyboardInterrupt

    def checked(look: Look) -> None:
        if asked:
            raise KeyboardInterrupt
        watch(look)

    before = {number: signal.signal(number, remember) for number in _SIGNALS}
    try:
        yield checked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
