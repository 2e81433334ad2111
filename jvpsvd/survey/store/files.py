"""Files that are whole or not there: written aside, synced to the disk, renamed into place.

What a run reads and writes are regular files. A link, a pipe or a folder in the place of one is
neither followed nor replaced.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from jvpsvd.errors import RunError
from jvpsvd.machine import is_aside, writer_may_live, writing, written_aside

# Nothing is written for as long as this: an older aside file belongs to a process that died, or
# that is suspended, as by Ctrl-Z.
_ABANDONED_SECONDS = 3600


DAMAGE = (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError, pa.ArrowException)
"""What a Parquet file that was damaged makes its reader raise."""


def is_regular(file: Path) -> bool:
    """Whether a file is there, and is no link, pipe, device or folder."""
    return _kind(file) == "file"


def refuse_other_kinds(file: Path) -> None:
    """Raise if something else than a regular file stands in the place of one.

    Raises:
        RunError: Naming it.
    """
    kind = _kind(file)
    if kind not in ("", "file"):
        raise RunError(f"{file} is a {kind} where a file of the run belongs; move it away")


def make_folder(folder: Path) -> None:
    """Make a folder, if it is not there; a link to one counts.

    Raises:
        DiskError: If it cannot be made.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def locked(file: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file.

    Raises:
        DiskError: If the file cannot be written.
        RunError: If the file is no regular one.
        filelock.Timeout: If another process holds it for longer than `timeout` seconds.
    """
    refuse_other_kinds(file)
    lock = FileLock(file, timeout=timeout)
    try:
        lock.acquire()
    except Timeout:  # an OSError too, but none of the disk
        raise
    except OSError as error:
        with writing(file if file.exists() else file.parent):
            raise error from None
    try:
        yield
    finally:
        lock.release()


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file, or replace it, so that at every instant it is the old one or the new one.

    Raises:
        DiskError: If it cannot be written.
        RunError: If a link, a pipe or a folder stands in its place.
    """
    refuse_other_kinds(file)
    with written_aside(file) as aside, writing(file):
        write(aside)


def write_first(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file unless another process has already written it.

    Raises:
        DiskError: If it cannot be written.
    """
    with written_aside(file, _link_unless_there) as aside, writing(file):
        write(aside)


def write_table(file: Path, table: pa.Table) -> None:
    """Write an Arrow table as a whole Parquet file, its pages with checksums."""
    write_whole(file, lambda aside: pq.write_table(table, aside, write_page_checksum=True))


def read_table(file: Path, schema: pa.Schema, may_be_null: frozenset[str]) -> pa.Table:
    """Return the columns of `schema` of a Parquet file, decoded and checked to the last value.

    Columns that may be null and are not there are null.

    Raises:
        RunError: If it cannot be read as such.
    """
    refuse_other_kinds(file)
    if not is_regular(file):
        raise unreadable(file, "no such file")
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            table = parquet.read()
        unknown = sorted({*table.column_names} - {*schema.names})
        if unknown:
            raise ValueError(f"column {unknown[0]!r} is none that jvpsvd writes")
        return conform(table, schema, may_be_null)
    except DAMAGE as error:
        raise unreadable(file, error) from error


def conform(table: pa.Table, schema: pa.Schema, may_be_null: frozenset[str]) -> pa.Table:
    """Return the columns of `schema` of a table whose values are valid, UTF-8 included.

    Raises:
        ValueError, KeyError: If one is not there, or holds nulls where none may be.
    """
    table.validate(full=True)
    columns = [
        pa.nulls(table.num_rows, field.type)
        if field.name in may_be_null and field.name not in table.column_names
        else _of_type(table.column(field.name), field)
        for field in schema
    ]
    for field, column in zip(schema, columns, strict=True):
        if field.name not in may_be_null and (column.null_count or _holds_nulls(column)):
            raise ValueError(f"a null in column {field.name}")
    return pa.table(columns, schema=schema.with_metadata(table.schema.metadata))


def unreadable(file: Path, why: BaseException | str) -> RunError:
    """Return the error of a file of a run that cannot be read."""
    text = why if isinstance(why, str) else str(why).strip() or type(why).__name__
    first = text.splitlines()[0][:200]
    return RunError(f"{file} cannot be read ({first}); the same run again mends it")


def remove_abandoned(folder: Path) -> None:
    """Remove what processes that died left aside in a folder an hour ago, and nothing else."""
    try:
        left_over = [file for file in folder.iterdir() if is_aside(file.name)]
    except OSError:
        return
    for file in left_over:
        with contextlib.suppress(OSError):
            old = time.time() - file.lstat().st_mtime > _ABANDONED_SECONDS
            if old and is_regular(file) and not writer_may_live(file.name):
                file.unlink()


def _link_unless_there(aside: Path, file: Path) -> None:
    with contextlib.suppress(FileExistsError):
        os.link(aside, file)


def _of_type(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Return a column of a type; only the name of what a list holds may differ."""
    found, expected = column.type, field.type
    lists = pa.types.is_list(found) and pa.types.is_list(expected)
    if not (found == expected or (lists and found.value_type == expected.value_type)):
        raise ValueError(f"column {field.name} holds {found}, not {expected}")
    return column.cast(expected)


def _holds_nulls(column: pa.ChunkedArray) -> bool:
    return pa.types.is_list(column.type) and any(
        chunk.values.null_count > 0 for chunk in column.chunks
    )


def _kind(file: Path) -> str:
    """Return what stands at a path; "" for nothing. Asked once: another process may remove it."""
    try:
        mode = file.lstat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISLNK(mode):
        return "link"
    return "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
