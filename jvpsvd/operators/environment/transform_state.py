"""What torch's transforms keep for a thread, as it was before they failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_FILES_OF_TORCH = str(Path(torch.__file__).parent)


@contextmanager
def transforms_restored() -> Iterator[None]:
    """Leave the transforms of this thread as they were, whatever is raised within.

    `repr` of a tensor switches the transforms off by a guard that is a local variable. If `repr`
    raises, the traceback keeps that guard: the transforms that were at work then would be switched
    off for good when the traceback is freed, long after they have ended. So local variables of
    torch's frames are freed before the state of the thread is restored.

    >>> keys = torch._C._dispatch_tls_local_exclude_set
    >>> before = str(keys())
    >>> with suppress(ZeroDivisionError), transforms_restored():
    ...     torch.func.functionalize(lambda x: 1 // 0)(torch.ones(2))
    >>> str(keys()) == before
    True
    """
    with torch._C._PreserveDispatchKeyGuard():
        try:
            yield
        except BaseException as error:
            _free_locals_of_torch(error)
            raise


def _free_locals_of_torch(error: BaseException) -> None:
    """Free local variables of the frames of torch that an exception and its causes hold."""
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        pending += [each.__cause__, each.__context__]
        for frame, _ in traceback.walk_tb(each.__traceback__):
            if frame.f_code.co_filename.startswith(_FILES_OF_TORCH):
                with suppress(RuntimeError):  # it is still being executed
                    frame.clear()
