"""Parts: Parquet files that hold the rows of many tasks, and say which.

A part is named after the tasks that it lists, so that a list that was changed, or a copy under
another name, is no part.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jvpsvd.errors import RunError
from jvpsvd.survey.store.files import DAMAGE, is_regular, unreadable, write_whole

PART = re.compile(r"part-[0-9a-f]{16}\.parquet")
"""Names of parts."""

_TASKS = b"jvpsvd.tasks"
# Damage costs the rows of one group of a part, not all of them.
_ROWS_OF_GROUP = 4096


def listed_in(file: Path) -> list[tuple[str, int]]:
    """Return the tasks of a part, in the order of its rows, each with their number.

    Empty if the part cannot be read, so that its tasks are done again.
    """
    if not is_regular(file):
        return []
    try:
        return listed_tasks(file, pq.read_schema(file).metadata or {})
    except (*DAMAGE, RunError):
        return []


def listed_tasks(file: Path, metadata: Mapping[bytes, bytes]) -> list[tuple[str, int]]:
    """Return the tasks that the metadata of a part lists, each with the number of its rows.

    Raises:
        RunError: If the list is not the one that the part is named after.
    """
    listed = metadata.get(_TASKS, b"")
    if _name(listed) != file.name:
        raise unreadable(file, "it does not list the tasks that it is named after")
    try:
        return [(str(task), int(count)) for task, count in json.loads(listed)]
    except (ValueError, TypeError, RecursionError) as error:
        raise unreadable(file, error) from error


def write_part(folder: Path, tasks: Sequence[tuple[str, pa.Table]]) -> Path:
    """Write the rows of tasks as one part, named after them, and return its file."""
    listed = json.dumps([[task, table.num_rows] for task, table in tasks]).encode()
    rows = pa.concat_tables([table.replace_schema_metadata() for _, table in tasks])
    table = rows.replace_schema_metadata({_TASKS: listed})
    file = folder / _name(listed)
    write_whole(
        file,
        lambda aside: pq.write_table(
            table, aside, row_group_size=_ROWS_OF_GROUP, write_page_checksum=True
        ),
    )
    return file


def _name(listed: bytes) -> str:
    return f"part-{hashlib.sha256(listed).hexdigest()[:16]}.parquet"
