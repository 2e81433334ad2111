"""Files that are whole or not there: written aside, synced to the disk, renamed into place."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jvpsvd.errors import RunError

ASIDE = ".part"
"""Ending of a file that is still being written, or was when its process died."""

# Nothing is written for as long as this: an older aside file belongs to a process that died.
_ABANDONED_SECONDS = 3600


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file, or replace it, so that at every instant it is the old one or the new one."""
    aside = _written_aside(file, write)
    aside.replace(file)
    sync(file.parent)


def write_first(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file unless another process has already written it."""
    aside = _written_aside(file, write)
    with contextlib.suppress(FileExistsError):
        os.link(aside, file)
    aside.unlink()
    sync(file.parent)


def write_table(file: Path, table: pa.Table) -> None:
    """Write an Arrow table as a whole Parquet file."""
    write_whole(file, lambda aside: pq.write_table(table, aside))


def read_table(file: Path, schema: pa.Schema, added: Sequence[str] = ()) -> pa.Table:
    """Return the columns of `schema` of a Parquet file.

    Args:
        file: The file.
        schema: Names and types of the columns.
        added: Columns that a file of an earlier version may lack; they are null then.

    Raises:
        RunError: If it cannot be read as such.
    """
    try:
        table = pq.ParquetFile(file).read()
        for name in set(added) - set(table.column_names):
            table = table.append_column(name, pa.nulls(len(table), schema.field(name).type))
        return table.select(schema.names).cast(schema)
    except (OSError, KeyError, pa.ArrowException) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{file} cannot be read ({first}); the same run again mends it") from error


def remove_abandoned(folder: Path) -> None:
    """Remove what dead processes left aside."""
    for left_over in folder.rglob(f"*{ASIDE}"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
                left_over.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _written_aside(file: Path, write: Callable[[Path], object]) -> Path:
    # A name of its own for every writer: shares of one run write side by side.
    # Hidden, because some readers of a folder take every file that is not.
    aside = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}{ASIDE}")
    try:
        write(aside)
        sync(aside)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()  # a full disk must not stay full of halves
        raise
    return aside
