"""What the command line does before it computes: it loads torch, and sets up its own process."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from jvpsvd.machine import threads_of_a_share

_INTERRUPTED = 130


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end the process with one line, while nothing is being written.

    An exception could be lost or changed on its way out of an import. What the shell ignores, as
    under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # only it may have handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def prepare_process(*modules: str, shares: int = 1) -> None:
    """Load torch, what a run needs and further modules, and set this process up for them.

    Freed memory is kept, and one of several processes of a run has its part of the cores. Both hold
    for the whole process, which is why a library does neither.

    >>> prepare_process()
    """
    with ended_by_signals():
        for module in ("torch", "jvpsvd.survey.work.run", *modules):
            importlib.import_module(module)
    import torch

    from jvpsvd.operators import keep_freed_memory

    keep_freed_memory()
    threads = threads_of_a_share(shares)
    if threads is not None:
        torch.set_num_threads(threads)


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("jvpsvd: interrupted\n")
    sys.stderr.flush()
    os._exit(_INTERRUPTED)
