"""Headers of a tar that nobody vouches for: its members, and whether it ends before its end.

tarfile reads the headers. It believes them, so that what it may read and where it may go is bounded
here, and it raises what the bytes make it raise.
"""

from __future__ import annotations

import re
import tarfile
from typing import BinaryIO, cast

_HEADER_BYTES = 1 << 20
"""A header with its extensions: long names and attributes of a file system."""
_MOST_DIGITS = 1000
"""In one number of a header; tarfile's search is quadratic in it (CVE-2024-6232)."""
_CHUNK = 1 << 20
_LARGEST_OFFSET = (1 << 63) - 1
"""In a file; what a manifest can hold."""

_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


def read_members(file: BinaryIO) -> tuple[list[tarfile.TarInfo], str]:
    """Return the members of a tar, and why those that may follow cannot be read; "" at its end.

    The end is a run of zeros to the end of the file, however long: what fills the last record
    depends on the writer's blocking factor.

    Raises:
        tarfile.TarError: If not even the first header can be read.
        OSError: If the file cannot be read.
    """
    found: list[tarfile.TarInfo] = []
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Bounded(file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= end:  # it would be read again and again
                    raise tarfile.ReadError("a member of negative size")
                if tar.offset > _LARGEST_OFFSET:
                    raise tarfile.ReadError("a member larger than any file")
                found.append(member)
                end = tar.offset
    except OSError:
        raise
    except Exception as error:  # numbers that are none or too large, chains of headers, …
        reason = f"byte {end}: {_brief(error)}"
        if not found:
            raise tarfile.ReadError(reason) from error
        return found, reason
    return found, _after(file, end)


def compression(file: BinaryIO) -> str:
    """Return what a file is compressed by, "" if by nothing that is known.

    >>> import gzip, io
    >>> compression(io.BytesIO(gzip.compress(b"photos")))
    'gzip'
    """
    file.seek(0)
    start = file.read(8)
    return next((name for magic, name in _COMPRESSED if start.startswith(magic)), "")


def _after(file: BinaryIO, offset: int) -> str:
    """Return what is wrong with the bytes after the last member.

    tarfile takes a garbled header, and any block of zeros, for the end of the archive; members may
    well follow (`cat a.tar b.tar`), or have been lost to zeros.
    """
    file.seek(offset)
    chunk = file.read(_CHUNK)
    if not chunk:
        return f"it ends at byte {offset} without an end mark"
    while chunk:
        if any(chunk):
            return f"something that is no member follows byte {offset}"
        chunk = file.read(_CHUNK)
    return ""


class _Bounded:
    """A file that is read in pieces of the size of headers, and between its ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, 2)
        file.seek(0)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:.3g} bytes")
        data = self._file.read(size)
        if size > tarfile.BLOCKSIZE and max(map(len, re.findall(rb"\d+", data)), default=0) > (
            _MOST_DIGITS
        ):
            raise tarfile.ReadError("a number of thousands of digits")
        return data

    def seek(self, position: int) -> int:
        if not 0 <= position <= self._length:
            raise tarfile.ReadError("a member that ends after the file")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def _brief(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:100]
