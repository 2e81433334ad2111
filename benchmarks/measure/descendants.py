"""Memory of the processes that this one starts, and of those that they start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def watched(every: float = 0.5) -> Iterator[Callable[[], int]]:
    """Watch all descendants of this process; yields what tells the most bytes that they held.

    A page that several of them share counts once in all (PSS; RSS where there is none).

    Args:
        every: Seconds between two looks; what lasts shorter may be missed.

    >>> with watched() as most:
    ...     pass
    >>> most() >= 0
    True
    """
    peak, ended = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(every):
            peak = max(peak, _held())

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        ended.set()
        thread.join()


def _held() -> int:
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it has ended, or is not ours to look at
            continue
        total += getattr(memory, "pss", 0) or memory.rss
    return total
