"""The rows of one file, task by task, and which of them were changed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jvpsvd.errors import RunError
from jvpsvd.survey.store.checksums import CHECKSUM, checksum_rows
from jvpsvd.survey.store.files import DAMAGE, conform, read_table, unreadable
from jvpsvd.survey.store.parts import PART, listed_tasks
from jvpsvd.survey.store.rows import MAY_BE_NULL, SCHEMA


@dataclass(frozen=True)
class Piece:
    """The rows of one file, of a single task or of many."""

    file: Path
    tasks: tuple[tuple[str, int], ...]
    """Tasks with the number of their rows, in the order of the rows."""
    table: pa.Table
    """The rows, of `SCHEMA`; none if the file cannot be read."""
    changed: tuple[int, ...] = ()
    """Indices of rows that are not what was written."""
    unchecked: int = 0
    """Rows without a checksum, from a run that was begun before there were any."""
    problem: str = ""
    """Why the file cannot be read, in one line; empty if it can."""

    @property
    def unchanged(self) -> pa.Table:
        """The rows that are what was written, as far as can be known."""
        if not self.changed:
            return self.table
        kept = sorted({*range(len(self.table))} - {*self.changed})
        return self.table.take(pa.array(kept, pa.int64()))

    def changes(self) -> list[str]:
        """Return a line for each row that was changed."""
        names = (self.table[name].to_pylist() for name in ("shard", "key", "layer"))
        rows = list(zip(*names, strict=True)) if self.changed else []
        return [
            f"{' '.join(rows[row])} in {self.file} is not what was written; the same run again "
            "computes it"
            for row in self.changed
        ]

    def rows_of_tasks(self) -> list[tuple[str, range]]:
        """Return each task with the indices of its rows."""
        ends = np.cumsum([0, *(count for _, count in self.tasks)]).tolist()
        indices = (range(start, end) for start, end in pairwise(ends))
        return [(task, rows) for (task, _), rows in zip(self.tasks, indices, strict=True)]

    def without(self, tasks: Collection[str]) -> Piece:
        """Return the piece without the rows of some tasks."""
        mine = {task for task, _ in self.tasks}
        return self if mine.isdisjoint(tasks) else self.only(mine.difference(tasks))

    def only(self, tasks: Collection[str]) -> Piece:
        """Return the piece with the rows of some of its tasks."""
        if self.problem:
            return self
        kept = [(task, rows) for task, rows in self.rows_of_tasks() if task in tasks]
        rows = [row for _, indices in kept for row in indices]
        changed = {*self.changed}
        return Piece(
            self.file,
            tuple((task, len(indices)) for task, indices in kept),
            self.table.take(pa.array(rows, pa.int64())),
            tuple(index for index, row in enumerate(rows) if row in changed),
            min(self.unchecked, len(rows)),
        )


def read_piece(file: Path, *, checksums_required: bool) -> Piece:
    """Return what a file of rows holds; one that cannot be read has its `problem` set.

    Args:
        file: The file of a task or of many.
        checksums_required: Whether a row without a checksum counts as changed.
    """
    try:
        table = read_table(file, SCHEMA, MAY_BE_NULL)
        return _compare_checksums(
            file, table, _list_tasks(file, table), checksums_required=checksums_required
        )
    except RunError as error:
        return Piece(file, (), SCHEMA.empty_table(), problem=str(error))


def salvage(file: Path, *, checksums_required: bool) -> list[tuple[str, pa.Table]]:
    """Return the tasks of a damaged part whose rows are all what was written.

    Its groups of rows are read one by one, so that one that cannot be decoded costs no other.
    """
    tables: list[pa.Table] = []
    undecoded: set[int] = set()
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            tasks = listed_tasks(file, parquet.schema_arrow.metadata or {})
            for group in range(parquet.num_row_groups):
                start = sum(map(len, tables))
                try:
                    table = conform(parquet.read_row_group(group), SCHEMA, MAY_BE_NULL)
                except DAMAGE:
                    rows = parquet.metadata.row_group(group).num_rows
                    table = pa.table([pa.nulls(rows, kind) for kind in SCHEMA.types], schema=SCHEMA)
                    undecoded.update(range(start, start + rows))
                tables.append(table.replace_schema_metadata())
    except (*DAMAGE, RunError):
        return []
    if sum(map(len, tables)) != sum(count for _, count in tasks):
        return []
    piece = _compare_checksums(
        file, pa.concat_tables(tables), tasks, checksums_required=checksums_required
    )
    bad = undecoded.union(piece.changed)
    return [
        (task, piece.table.slice(rows.start, len(rows)))
        for task, rows in piece.rows_of_tasks()
        if bad.isdisjoint(rows)
    ]


def _list_tasks(file: Path, table: pa.Table) -> list[tuple[str, int]]:
    if not PART.fullmatch(file.name):
        return [(file.stem, len(table))]
    tasks = listed_tasks(file, table.schema.metadata or {})
    counts = [count for _, count in tasks]
    if sum(counts) != len(table) or min(counts, default=0) < 1:
        raise unreadable(file, f"{len(table)} rows are not those of the tasks that it lists")
    return tasks


def _compare_checksums(
    file: Path, table: pa.Table, tasks: list[tuple[str, int]], *, checksums_required: bool
) -> Piece:
    plain = table.replace_schema_metadata()
    of_rows = [task for task, count in tasks for _ in range(count)]
    pairs = zip(plain[CHECKSUM].to_pylist(), checksum_rows(plain, of_rows), strict=True)
    changed = [
        row for row, (stored, found) in enumerate(pairs)
        if (stored is None and checksums_required) or stored not in (None, found)
    ]  # fmt: skip
    unchecked = 0 if checksums_required else plain[CHECKSUM].null_count
    return Piece(file, tuple(tasks), plain, tuple(changed), unchecked)
