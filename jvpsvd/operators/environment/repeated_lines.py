"""Lines of the log that are said once for a function, whose derivative is taken at many points."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SAID: ContextVar[set[str] | None] = ContextVar("said", default=None)
_NUMBER = re.compile(r"[0-9][0-9.e+-]*")


@contextmanager
def say_once(said: set[str]) -> Iterator[None]:
    """Leave out lines that are among those said, but for their numbers, and note the others.

    >>> said = {"# % is missing"}
    >>> record = logging.LogRecord("", logging.WARNING, "", 0, "50 % is missing", None, None)
    >>> with say_once(said):
    ...     drop_repeated(record)
    False
    """
    before = _SAID.set(said)
    try:
        yield
    finally:
        _SAID.reset(before)


def drop_repeated(record: logging.LogRecord) -> bool:
    """Return whether a logger is to write a line, as a filter does."""
    said = _SAID.get()
    if said is None or record.levelno < logging.WARNING:
        return True
    line = _NUMBER.sub("#", record.getMessage())
    if line in said:
        return False
    said.add(line)
    return True
