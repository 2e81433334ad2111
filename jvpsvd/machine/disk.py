"""Writing to the disk: waiting for it, and what to say where it fails."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from jvpsvd.errors import DiskError

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


def _number_of(error: Exception) -> int | None:
    """Return the number of an error of the disk, which safetensors has in its text only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error ([0-9]+)\)", str(error))
    return None if found is None else int(found[1])
