"""Parts: Parquet files that hold the rows of many tasks, and say which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jvpsvd.survey.files import write_table

PART = "part-"
"""Beginning of the names of parts."""

_TASKS = b"jvpsvd.tasks"


def in_part(file: Path) -> list[tuple[str, int]]:
    """Return the tasks of a part, in the order of its rows, each with their number.

    Empty if the part cannot be read, so that its tasks are done again.
    """
    try:
        metadata = pq.read_schema(file).metadata or {}
        return [(str(task), int(count)) for task, count in json.loads(metadata[_TASKS])]
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException):
        return []


def write_part(folder: Path, tasks: Sequence[tuple[str, pa.Table]]) -> Path:
    """Write the rows of tasks as one part, named after them, and return its file."""
    listed = json.dumps([[task, table.num_rows] for task, table in tasks])
    name = hashlib.sha256(listed.encode()).hexdigest()[:16]
    rows = pa.concat_tables([table for _, table in tasks])
    metadata = {**(rows.schema.metadata or {}), _TASKS: listed.encode()}
    file = folder / f"{PART}{name}.parquet"
    write_table(file, rows.replace_schema_metadata(metadata))
    return file
