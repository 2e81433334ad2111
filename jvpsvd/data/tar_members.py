"""Members of an untrusted tar file, and whether the archive is complete.

tarfile reads the headers and trusts them, and may raise any exception on hostile bytes. So this
module bounds what tarfile may read and where it may seek.
"""

from __future__ import annotations

import re
import tarfile
from typing import BinaryIO, cast

_HEADER_BYTES = 1 << 20
"""Bytes of a header with its extensions, such as long names."""
_MAX_DIGITS = 1000
"""Digits of one number in a header; tarfile's search is quadratic in them (CVE-2024-6232)."""
_CHUNK = 1 << 20
_LARGEST_OFFSET = (1 << 63) - 1
"""Largest offset in a file that a manifest can hold."""

_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)


def read_members(file: BinaryIO) -> tuple[list[tarfile.TarInfo], str]:
    """Return the members of a tar, and why later ones cannot be read; "" if it is complete.

    A tar is complete if only zeros follow the last member. Their number depends on the writer's
    blocking factor.

    Raises:
        tarfile.TarError: If not even the first header can be read.
        OSError: If the file cannot be read.
    """
    found: list[tarfile.TarInfo] = []
    end = 0
    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Bounded(file)), mode="r:") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= end:  # tarfile would read it again and again
                    raise tarfile.ReadError("a member of negative size")
                if tar.offset > _LARGEST_OFFSET:
                    raise tarfile.ReadError("a member larger than any file")
                found.append(member)
                end = tar.offset
    except OSError:
        raise
    except Exception as error:  # invalid or too large numbers, chains of headers, …
        reason = f"byte {end}: {_brief(error)}"
        if not found:
            raise tarfile.ReadError(reason) from error
        return found, reason
    return found, _after(file, end)


def compression(file: BinaryIO) -> str:
    """Return the compression of a file; "" if it has none of the known ones.

    >>> import gzip, io
    >>> compression(io.BytesIO(gzip.compress(b"photos")))
    'gzip'
    """
    file.seek(0)
    start = file.read(8)
    return next((name for magic, name in _COMPRESSED if start.startswith(magic)), "")


def _after(file: BinaryIO, offset: int) -> str:
    """Return what is wrong with the bytes after the last member.

    tarfile treats a garbled header or any block of zeros as the end of the archive. But members may
    follow (`cat a.tar b.tar`), or may have been overwritten by zeros.
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
    """A file that refuses reads longer than headers, and seeks beyond its ends."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._length = file.seek(0, 2)
        file.seek(0)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:.3g} bytes")
        data = self._file.read(size)
        if size > tarfile.BLOCKSIZE and max(map(len, re.findall(rb"\d+", data)), default=0) > (
            _MAX_DIGITS
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
