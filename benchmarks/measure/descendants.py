"""Memory of the processes that this one starts, and of the processes that these start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def watch_memory(every: float = 0.5) -> Iterator[Callable[[], int]]:
    """Watch all descendants of this process; yield a function that returns their peak in bytes.

    A page that several of them share counts once (PSS; RSS where there is none).

    Args:
        every: Seconds between two readings; a shorter peak may be missed.

    >>> with watch_memory() as peak:
    ...     pass
    >>> peak() >= 0
    True
    """
    peak, ended = 0, threading.Event()

    def read() -> None:
        nonlocal peak
        while not ended.wait(every):
            peak = max(peak, _held_bytes())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        ended.set()
        thread.join()


def _held_bytes() -> int:
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            memory = process.memory_full_info()
        except psutil.Error:  # it has ended, or is not ours to read
            continue
        total += getattr(memory, "pss", 0) or memory.rss
    return total
