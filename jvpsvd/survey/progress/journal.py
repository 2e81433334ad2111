"""What a process did in a run, line by line as JSON, and whether it still lives.

Every process that works on a run has a file of its own in `log/`, and holds a lock next to it for
as long as it lives: the operating system gives the lock back however the process ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jvpsvd.machine import writing
from jvpsvd.survey.store.files import is_regular, locked, make_folder, refuse_other_kinds

# Events are for the files alone, so that this logger is nobody's child; warnings are for whoever
# listens to the package too.
_EVENTS = logging.Logger("jvpsvd.journal", logging.INFO)
_WRITES: ContextVar[Path | None] = ContextVar("journal", default=None)
"""The journal of this thread; those that a run starts beside it have none."""


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and what the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "carried", {}))
        return json.dumps(line)


class _Lines(logging.FileHandler):
    """A file of lines; one that cannot be written, on a full disk, is not worth the run."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.setFormatter(_JsonLines())
        self._file = file

    def filter(self, record: logging.LogRecord) -> bool:
        return _WRITES.get() in (None, self._file)

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextlib.contextmanager
def journal(folder: Path) -> Iterator[None]:
    """Write what jvpsvd logs, warnings included, to a file of this process in `folder`/log.

    Runs in several threads of a process write to a file each.

    Raises:
        DiskError: If the files cannot be made.
    """
    log = folder / "log"
    make_folder(log)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    file = log / f"{stamp}-{socket.gethostname()}-{os.getpid()}.jsonl"
    package = logging.getLogger("jvpsvd")
    refuse_other_kinds(file)
    with locked(_lock_of(file)):
        with writing(file):
            handler = _Lines(file)
        _EVENTS.addHandler(handler)
        package.addHandler(handler)
        mine = _WRITES.set(file)
        try:
            yield
        except BaseException as error:
            note("stopped", reason=f"{type(error).__name__}: {error}")
            raise
        finally:
            _WRITES.reset(mine)
            package.removeHandler(handler)
            _EVENTS.removeHandler(handler)
            handler.close()


def note(event: str, **carried: Any) -> None:
    """Write an event to the journal that is open, if one is."""
    if _EVENTS.handlers:
        _EVENTS.info(event, extra={"carried": carried})


def journals(folder: Path) -> list[Path]:
    """Return the journals of a run, oldest first."""
    return sorted(file for file in (folder / "log").glob("*.jsonl") if is_regular(file))


def lives(file: Path) -> bool:
    """Whether the process that writes a journal still lives (on a file system that has locks)."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    if not is_regular(_lock_of(file)):
        return False
    try:
        with _lock_of(file).open("rb") as lock:
            # Shared, so that two who ask do not take each other for the process.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def others_at_work(folder: Path, share: Sequence[int]) -> list[str]:
    """Return the names of the journals of other processes that work on a share of a run now."""
    return [
        file.stem
        for file in journals(folder)
        if file != _WRITES.get()
        and lives(file)
        and any(e.get("event") == "began" and e.get("share") == list(share) for e in events(file))
    ]


def events(file: Path) -> list[dict[str, Any]]:
    r"""Return the lines of a journal, without one that was cut off when its process died.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "a.jsonl"
    >>> file.write_text('{"event": "began"}\n{"event": "do')
    32
    >>> events(file)
    [{'event': 'began'}]
    """
    found = []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                found.append(record)
    return found


def _lock_of(file: Path) -> Path:
    return file.with_suffix(".lock")
