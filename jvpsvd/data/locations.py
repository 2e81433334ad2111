"""Locations of shards: local files, or URLs that fsspec opens. No shell is ever used.

This module does not read tar files. A location has a name, by which rows identify the shard, and
opens as a seekable binary file.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from jvpsvd.arguments import as_path, path_as_text
from jvpsvd.errors import ShardError
from jvpsvd.imports import require

UNREADABLE = "unreadable"
"""Fingerprint of a shard that is missing or cannot be read."""

_URL = re.compile(r"([a-z][a-z0-9+.-]*):(?!\\)")
_SHARD = re.compile(r"(?!\._).*\.(tar(\.(gz|bz2|xz|zst|lz4|Z))?|tgz|tbz2|txz|tzst)", re.DOTALL)
_AT_ONCE = 16
# Seconds between tries, so that no shard is lost if a server is busy for a moment.
_PAUSES = (0.2, 1.0, 3.0)
_GONE = (404, 410)

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteShard:
    """A shard behind a URL.

    >>> RemoteShard("https://example.org/train-0001.tar?signature=abc").name
    'train-0001.tar'
    """

    url: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return re.split("[?#]", self.url)[0].rsplit("/", 1)[-1]

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open it for random access; a file from a server without ranges is copied first.

        Raises:
            FileNotFoundError: If nothing is there.
            OSError: If it cannot be reached, whatever the protocol's library raises.
        """
        files, path = _file_system(self.url)

        def begin() -> BinaryIO:
            file = cast(BinaryIO, files.open(path, mode))
            try:
                file.seek(1)
                file.seek(0)
            except (ValueError, OSError, NotImplementedError):
                file.close()
                file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 -- handed over
                with files.open(path, mode) as source:
                    shutil.copyfileobj(source, file)
                file.seek(0)
            return file

        return cast(BinaryIO, _RetriedFile(_retry(begin)))

    def __str__(self) -> str:
        return self.url


class _RetriedFile(io.RawIOBase):
    """A remote file that retries failed reads, and raises OSError in the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1, /) -> bytes:
        position = self._file.tell()

        def again() -> bytes:
            self._file.seek(position)
            return self._file.read(size)

        return _retry(again)

    def seek(self, position: int, whence: int = 0, /) -> int:
        return self._file.seek(position, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def _retry(work: Callable[[], T]) -> T:
    """Return the result of `work` within a few tries; any error of the last try becomes OSError."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return work()
        except Exception as error:  # of aiohttp, botocore, …
            # fsspec raises "not found" for busy and unreachable servers too; the cause is chained.
            status = getattr(error, "status", getattr(error.__cause__, "status", None))
            missing = isinstance(error, FileNotFoundError)
            if missing and (error.__cause__ is None or status in _GONE):
                raise
            if status in _GONE:
                raise FileNotFoundError(f"not found (status {status})") from error
            pause = next(pauses, None)
            if pause is None:
                cause = error.__cause__ if missing else error
                first = (str(cause).strip() or "no message").splitlines()[0]
                raise OSError(f"{type(cause).__name__}: {first}") from error
            time.sleep(pause)


Shard = Path | RemoteShard
"""A shard; both types have `name` and `open`."""


def find_shards(pattern: str | os.PathLike[str]) -> list[Shard]:
    """Return the shards of a folder, file, glob or brace range ("train-{0000..0009}.tar"), sorted.

    A path may be a URL of any protocol that fsspec supports (https, s3, gs, …). If a part of a
    range exists, missing members are returned too, and a survey turns them into rows.

    Raises:
        ShardError: If the pattern is empty or nothing matches, if two shards share a file name
            (rows could not distinguish them), or if the URL cannot be opened.
    """
    pattern = path_as_text("pattern", pattern, "a folder, a .tar file or a pattern")
    if not pattern.strip():
        raise ShardError("shards '': nothing is named; give a folder, a .tar file or a pattern")
    require("finding shards", "survey", "braceexpand")
    from braceexpand import braceexpand

    try:
        parts = sorted(set(braceexpand(pattern)))
    except ValueError as error:  # its UnbalancedBracesError
        raise ShardError(
            f"shards '{pattern}': braces do not match; write {{0000..0009}}"
        ) from error
    found: list[Shard] = []
    for part in parts:
        found += _remote(part) if _URL.match(part) else _local(part)
    if not any(isinstance(shard, RemoteShard) or shard.is_file() for shard in found):
        if found:
            raise ShardError(f"no shard at {found[0]}; give a folder, a .tar file or a pattern")
        raise ShardError(
            f"no .tar file matches {pattern}; 'jvpsvd pack PHOTOS SHARDS' makes shards of photos, "
            "'tar --sort=name -cf SHARDS/x.tar -C FOLDER .' of texts, arrays and sounds"
        )
    refuse_equal_names(found)
    for folder in {shard.parent for shard in found if isinstance(shard, Path)}:
        refuse_unfinished(folder)
    return found


def refuse_equal_names(shards: Sequence[Shard]) -> None:
    """Check that no two shards share a file name.

    Raises:
        ShardError: If two do.

    >>> refuse_equal_names([Path("a/s.tar"), Path("b/s.tar")])
    Traceback (most recent call last):
    jvpsvd.errors.ShardError: two shards are named s.tar; rename one, rows are told apart by name
    """
    names: set[str] = set()
    for shard in shards:
        if shard.name in names:
            raise ShardError(
                f"two shards are named {shard.name}; rename one, rows are told apart by name"
            )
        names.add(shard.name)


def unfinished(stem: str) -> str:
    """Return the name of the folder, next to future shards, in which they are written first."""
    return f".{stem}.packing"


def refuse_unfinished(folder: Path) -> None:
    """Refuse a folder that may not hold all of its shards.

    Raises:
        ShardError: If shards are being packed into it, or packing was interrupted.
    """
    for aside in folder.glob(unfinished("*")):
        raise ShardError(
            f"{folder} does not hold all of its shards: a pack into it was stopped, or still runs; "
            f"delete {aside} and the shards {aside.name[1:].removesuffix('.packing')}-*.tar, and "
            "pack again"
        )


def as_shard(given: Shard | str | os.PathLike[str]) -> Shard:
    """Return the shard at a path or a URL.

    >>> as_shard("https://example.org/train-0001.tar").name, as_shard("a/train-0002.tar").name
    ('train-0001.tar', 'train-0002.tar')
    """
    if isinstance(given, RemoteShard):
        return given
    path = as_path("shard", given)
    return RemoteShard(str(given)) if isinstance(given, str) and _URL.match(given) else path


def opened(shard: Shard) -> BinaryIO:
    """Open a shard for random access.

    Raises:
        FileNotFoundError: If nothing is there.
        ShardError: If the shard is a folder, a pipe or a device.
        OSError: If it cannot be read.
    """
    if isinstance(shard, Path) and shard.exists() and not shard.is_file():
        raise ShardError(f"{shard} is not a file; give .tar files")
    return shard.open("rb")


def fingerprint(shard: Shard | str | os.PathLike[str]) -> str:
    """Return a short hash of a shard's size and first mebibyte, which tells shards apart.

    Raises:
        ShardError: If the file cannot be read.
    """
    shard = as_shard(shard)
    try:
        with opened(shard) as file:
            digest = hashlib.sha256(file.read(1 << 20))
            digest.update(str(file.seek(0, 2)).encode())
    except OSError as error:
        raise ShardError(f"{shard} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def fingerprints(shards: Sequence[Shard | str | os.PathLike[str]]) -> list[str]:
    """Return the fingerprints of shards, with `UNREADABLE` for those that cannot be read."""

    def fingerprint_if_readable(shard: Shard | str | os.PathLike[str]) -> str:
        try:
            return fingerprint(shard)
        except ShardError:
            return UNREADABLE

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(fingerprint_if_readable, shards))


def _local(part: str) -> list[Shard]:
    path = Path(part)
    if path.is_dir():
        try:
            entries = sorted(path.iterdir())
        except OSError as error:
            raise ShardError(f"{path} cannot be read: {error.strerror}") from error
        # Compressed shards are included: a row says that they cannot be read.
        return [entry for entry in entries if _SHARD.fullmatch(entry.name)]
    if not path.is_file() and glob.has_magic(part):
        return [Path(name) for name in sorted(glob.glob(part))]  # noqa: PTH207 -- any root
    return [path]


def _remote(part: str) -> list[Shard]:
    files, path = _file_system(part)
    if part.endswith("/"):
        path = path.rstrip("/") + "/*.t*"
    elif not glob.has_magic(re.split("[?#]", part)[0]):
        return [RemoteShard(part)]
    try:
        names = sorted(files.glob(path))
    except Exception as error:  # of aiohttp, botocore, …
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ShardError(f"shards '{part}' cannot be listed: {first}") from error
    found = [RemoteShard(files.unstrip_protocol(name)) for name in names]
    whole_folder = part.endswith("/")
    return [shard for shard in found if not whole_folder or _SHARD.fullmatch(shard.name)]


def _file_system(url: str) -> tuple[Any, str]:
    require("a shard behind a URL", "survey", "fsspec")
    import fsspec

    match = _URL.match(url)
    protocol = match[1] if match else "file"
    if "::" in url or "://" not in url or protocol not in fsspec.available_protocols():
        raise ShardError(
            f"shards '{url}': no protocol that is opened here; give a path, or a URL such as "
            "https://, s3:// or gs://"
        )
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        remedy = "; pip install 'jvpsvd[remote]'" if protocol in ("http", "https") else ""
        raise ShardError(f"shards '{url}' need another package: {error}{remedy}") from error
    except Exception as error:  # raised by the protocol's library
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ShardError(f"shards '{url}' cannot be opened: {first}") from error
    return files, path
