"""Checksums of what a run stores, so that a change on the disk is noticed: BLAKE2b of 16 bytes.

The checksum of a row covers its values, not the bytes of its file, so that it stays the same when
rows move to another file. It is keyed with the task of the row: a row that stands in the file of
another task, or of another run, does not match.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

CHECKSUM = "checksum"
"""The column of the rows, and the entry of run.json, that holds the checksum of the rest."""

_BYTES = 16


def checksum_bytes(data: bytes) -> str:
    """Return the checksum of a photo or of a file.

    >>> checksum_bytes(b"")
    'cae66941d9efbd404e4d88758ea67670'
    """
    return hashlib.blake2b(data, digest_size=_BYTES).hexdigest()


def checksum_record(record: dict[str, Any]) -> str:
    """Return the checksum of JSON types, without their entry `checksum`.

    >>> checksum_record({"k": 5, "checksum": "abc"}) == checksum_record({"k": 5})
    True
    """
    rest = {name: value for name, value in record.items() if name != CHECKSUM}
    return checksum_bytes(json.dumps(rest, sort_keys=True).encode())


def checksum_table(table: pa.Table, key: str) -> str:
    """Return one checksum of all rows of a table of numbers and strings, in their order.

    Args:
        table: Any; columns without any value take no part.
        key: What the table belongs to.

    >>> table = pa.table({"key": ["a", "b"]})
    >>> checksum_table(table, "run") == checksum_table(table.slice(0, 1), "run")
    False
    """
    digest = hashlib.blake2b(digest_size=_BYTES, key=key.encode())
    for name in sorted(table.column_names):
        column = table[name]
        if column.null_count < len(column):
            digest.update(json.dumps([name, column.to_pylist()]).encode())
    return digest.hexdigest()


def checksum_rows(table: pa.Table, tasks: Sequence[str]) -> list[str]:
    """Return the checksum of each row of a table.

    Every column but `checksum` takes part, whatever their order. A cell that is null does not: a
    column that is added later, and is null in older rows, leaves their checksums as they are.

    Args:
        table: Numbers, strings and lists of float64.
        tasks: The task of each row.

    >>> table = pa.table({"key": ["a", "b"], "s": [[2.0, 1.0], [2.0, 1.0]]})
    >>> one, other = checksum_rows(table, ["task", "task"])
    >>> one == other
    False
    >>> wider = table.append_column("more", pa.nulls(2, pa.float64()))
    >>> checksum_rows(wider, ["task", "task"]) == [one, other]
    True
    """
    names = sorted(name for name in table.column_names if name != CHECKSUM)
    lists = {name: _bytes_of_lists(table[name]) for name in names if _is_list(table[name])}
    scalars = {name: table[name].to_pylist() for name in names if name not in lists}
    found = []
    for row, task in enumerate(tasks):
        cells = {name: values[row] for name, values in scalars.items() if values[row] is not None}
        digest = hashlib.blake2b(
            digest_size=_BYTES, key=task.encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        )
        digest.update(json.dumps(cells).encode())
        for name, values in lists.items():
            value = values[row]
            if value is not None:
                digest.update(f"\n{name} {len(value)} ".encode())
                digest.update(value)
        found.append(digest.hexdigest())
    return found


def _is_list(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_list(column.type))


def _without_pandas(numbers: pa.Array) -> np.ndarray[Any, Any]:
    """Return numbers as NumPy's; `to_numpy` alone would import pandas, in a third of a second."""
    if numbers.null_count:
        return np.asarray(numbers.to_numpy(zero_copy_only=False))
    return np.from_dlpack(numbers) if len(numbers) else np.empty(0)


def _bytes_of_lists(column: pa.ChunkedArray) -> list[bytes | None]:
    """Return the numbers of each list as bytes, little endian."""
    found: list[bytes | None] = []
    for chunk in column.chunks:
        numbers = np.asarray(_without_pandas(chunk.values), dtype="<f8")
        ends = np.from_dlpack(chunk.offsets)
        there = chunk.is_valid().to_pylist()
        found += [
            numbers[start:end].tobytes() if valid else None
            for start, end, valid in zip(ends[:-1], ends[1:], there, strict=True)
        ]
    return found
