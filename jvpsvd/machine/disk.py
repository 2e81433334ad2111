"""Writing to the disk: files that are whole or not there, and what to say where that fails."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jvpsvd.errors import DiskError

ASIDE = ".part"
"""Ending of a file that is still being written, or was when its process died."""
_ASIDE_NAME = re.compile(rf"\..+\.([0-9]+)-[0-9a-f]{{8}}\{ASIDE}")

_FREE = "free some space there, then do the same again"
_ALLOW = "make it writable, or choose another place"
_MOVE = "move away what has its name, or choose another"
_REMEDIES: dict[int | None, str] = {
    errno.ENOSPC: _FREE,
    errno.EDQUOT: _FREE,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), then do the same again",
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: _ALLOW,
    errno.EISDIR: _MOVE,
    errno.ENOTDIR: _MOVE,
    errno.EEXIST: _MOVE,
    errno.ENOENT: "make its folder, or choose another",
}


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def writing(file: str | os.PathLike[str]) -> Iterator[None]:
    """Have errors of the disk within say which file could not be written, why, and what to do.

    Raises:
        DiskError: For an `OSError`, or one of safetensors.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with writing("points.csv"):
    ...     folder.write_text("1, 2")
    Traceback (most recent call last):
    jvpsvd.errors.DiskError: points.csv cannot be written: Is a directory; move away what has its \
name, or choose another
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        number = _number_of(error)
        text = (str(error) or type(error).__name__).splitlines()[0][:200]
        reason = text if number is None else os.strerror(number)
        remedy = _REMEDIES.get(number, "see to that, then do the same again")
        raise DiskError(f"{file} cannot be written: {reason}; {remedy}") from error


@contextlib.contextmanager
def written_aside(
    file: str | os.PathLike[str], place: Callable[[Path, Path], object] = os.replace
) -> Iterator[Path]:
    """Yield the name of a file to write, which becomes `file` once it is whole and on the disk.

    So `file` is at every instant the one that was there or the new one. Where the block fails,
    nothing is left. What is written in the block belongs under `writing(file)`.

    A link is followed; where its target, or `file`, is no regular file, nothing is written.

    Args:
        file: The file to write.
        place: Puts what was written, the first path, in the place of the second.

    Raises:
        DiskError: If it cannot be put there.

    >>> import tempfile
    >>> points = Path(tempfile.mkdtemp(), "points.csv")
    >>> with written_aside(points) as aside, writing(points):
    ...     aside.write_text("1, 2")
    4
    >>> [each.name for each in points.parent.iterdir()]
    ['points.csv']
    """
    with writing(file):
        target = Path(file).resolve()
        if target.exists() and not target.is_file():
            raise DiskError(f"{file} is no regular file; choose another name")
    # Hidden, because some readers of a folder take every file that is not; and a name of its own
    # for every writer, because processes write side by side.
    aside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{ASIDE}")
    try:
        yield aside
        with writing(file):
            sync(aside)
            place(aside, target)
            sync(target.parent)
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()  # a full disk must not stay full of halves


def is_aside(name: str) -> bool:
    """Tell whether `written_aside` gives such names.

    >>> is_aside(".points.csv.17-0123abcd.part"), is_aside("points.csv")
    (True, False)
    """
    return _ASIDE_NAME.fullmatch(name) is not None


def writer_may_live(name: str) -> bool:
    """Tell whether another process of this machine has the number in a name of `written_aside`.

    The writer may also be on another machine, or its number may have been given anew.

    >>> writer_may_live(f".points.csv.{os.getppid()}-0123abcd.part"), writer_may_live("points.csv")
    (True, False)
    """
    found = _ASIDE_NAME.fullmatch(name)
    if found is None or sys.platform == "win32":  # where signal 0 ends a process
        return False
    number = int(found[1])
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return number != os.getpid()


def _number_of(error: Exception) -> int | None:
    """Return the number of an error of the disk, which safetensors has in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error ([0-9]+)\)", str(error))
    return None if found is None else int(found[1])
