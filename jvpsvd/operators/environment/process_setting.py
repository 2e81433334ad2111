"""Settings of the whole process that are needed for the time of a computation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack


class ProcessSetting:
    """A context within which settings of the process are switched.

    The first to enter switches them, in whatever thread, and the last to leave restores them.

    Args:
        switch: Switches, and leaves with the stack that it is given what restores.

    >>> said = []
    >>> setting = ProcessSetting(lambda restore: restore.callback(said.append, "restored"))
    >>> with setting, setting:
    ...     pass
    >>> said
    ['restored']
    """

    def __init__(self, switch: Callable[[ExitStack], object]) -> None:
        self._switch, self._restore = switch, ExitStack()
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                try:
                    self._switch(self._restore)
                except BaseException:  # half switched
                    self._restore.close()
                    raise
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._restore.close()
