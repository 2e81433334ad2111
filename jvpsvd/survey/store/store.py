"""What a run has stored: its samples and rows. A file that exists is whole.

A task with a row at every depth is finished; one with the rows of its first depths is at work.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jvpsvd.arguments import as_path, shown
from jvpsvd.data import Sample
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.machine import writing
from jvpsvd.networks import Depth
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.files import (
    make_folder,
    refuse_other_kinds,
    remove_abandoned,
    write_table,
)
from jvpsvd.survey.store.layout import Layout
from jvpsvd.survey.store.manifest_file import read_samples, write_samples
from jvpsvd.survey.store.parts import listed_in
from jvpsvd.survey.store.pieces import Piece, read_piece
from jvpsvd.survey.store.positions import Positions
from jvpsvd.survey.store.record import RECORD, read_record, write_record
from jvpsvd.survey.store.rows import PASSING, SCHEMA, Row, from_table, to_table
from jvpsvd.survey.store.vectors import are_whole, write_vectors

if TYPE_CHECKING:
    from jvpsvd.svd import SVDResult


@dataclass(frozen=True, repr=False)
class Store:
    """A run folder on disk."""

    folder: Path
    identity: Identity
    depths: tuple[Depth, ...]
    """The depths of `identity.layers`, with their sizes."""
    checksum: str | None = None
    """Checksum of run.json; None for a run that was begun before there were checksums. In all
    others, what has no checksum counts as changed."""

    def __repr__(self) -> str:
        layers = ", ".join(self.identity.layers)
        return f"<Store {self.folder}: {self.identity.model} at {layers}>"

    @property
    def counts(self) -> dict[str, int]:
        """Triplets of each depth: k, or all where the Jacobian has fewer."""
        return {layer: min(self.identity.k, size) for layer, size in self.sizes.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Singular values of each depth, min(m, n)."""
        n = self.identity.columns
        return {depth.name: min(depth.numel, n) for depth in self.depths}

    @property
    def layout(self) -> Layout:
        """The names of the files."""
        return Layout(self.folder)

    def samples(self) -> list[Sample]:
        """Return the manifest.

        Raises:
            RunError: If it is missing, unreadable or changed.
        """
        return read_samples(self.layout.manifest, self.checksum)

    @property
    def has_manifest(self) -> bool:
        """Whether the samples of the run have been listed, and can be read."""
        try:
            self.samples()
        except RunError:
            return False
        return True

    def write_manifest(self, samples: Sequence[Sample]) -> None:
        """Fix the samples that the run visits; a manifest that cannot be read is kept aside."""
        file = self.layout.manifest
        refuse_other_kinds(file)
        if file.exists() and not self.has_manifest:
            set_aside(file)
        write_samples(file, samples, self.checksum)

    def finished(self, row_counts: Mapping[str, int]) -> set[str]:
        """Return which of some tasks need no work, given each with the number of its rows.

        A task is taken up again if its file cannot be read or was changed, if it failed in a way
        that another try may mend, or if vectors that belong to its rows are gone.
        """
        singles = [file for file in self.layout.task_files() if file.stem in row_counts]
        # Listed after them: what is merged meanwhile is in one of the two.
        merged = dict(pair for part in self.layout.part_files() for pair in listed_in(part))
        # Only tasks that need no work are merged, and none whose vectors could be lost.
        done = {task for task, count in merged.items() if row_counts.get(task) == count}
        return done | {
            file.stem
            for file in singles
            if file.stem not in done and self.is_finished(file, row_counts[file.stem])
        }

    def is_finished(self, file: Path, count: int | None = None) -> bool:
        """Whether the task of a file, of so many rows, needs no further work."""
        piece = self.read_task(file)
        if piece.problem or piece.changed:
            return False
        status = piece.table["status"].to_pylist()
        # A task at work has fewer rows than depths.
        whole = len(status) == count or (count is None and not len(status) % len(self.depths))
        return whole and all(
            self._needs_no_work(file.stem, index, kind) for index, kind in enumerate(status)
        )

    def first_rows(self, task: Task) -> list[Row]:
        """Return the rows of the first depths of a task that need no further work.

        Empty for a task of several samples: those are solved together, depth by depth.
        """
        rows = enumerate(self._rows_in_place(task))
        good = takewhile(lambda one: self._needs_no_work(task.id, one[0], one[1].status), rows)
        return [row for _, row in good]

    def _rows_in_place(self, task: Task) -> list[Row]:
        """Return the rows of a task with one sample, up to one that was changed or misplaced."""
        file, sample = self.layout.task_file(task.id), task.samples[0]
        if len(task.samples) > 1 or not os.path.lexists(file):
            return []
        piece, rows = self.read_task(file), []
        unchanged = from_table(piece.table)[: min(piece.changed, default=None)]
        for row, depth in zip(unchanged, self.depths, strict=False):  # there may be too many rows
            if (row.shard, row.key, row.layer) != (sample.shard, sample.key, depth.name):
                break
            rows.append(row)
        return rows

    def _needs_no_work(self, task: str, index: int, status: str) -> bool:
        """Whether a row of a task is a value with its vectors, or a failure that is final."""
        needs_vectors = self.identity.has_vector_files and status == "ok"
        return status not in PASSING and (
            not needs_vectors or are_whole(self.layout.vector_file(task, index))
        )

    def commit(
        self, task: str, rows: Sequence[Row], results: Sequence[SVDResult | None] = ()
    ) -> None:
        """Store the rows of a task, its vectors before them.

        Raises:
            RunError: If a link, a pipe or a folder stands in the place of a file.
        """
        stored = self._with_vectors(task, rows, results)
        write_table(self.layout.task_file(task), to_table(stored, task))

    def commit_first(
        self, task: Task, rows: Sequence[Row], results: Sequence[SVDResult | None]
    ) -> list[Row]:
        """Store the rows of the first depths of a task at work; return them as they are stored.

        Rows of the same photo that are there and need no work stay, with their vectors, so that
        each file of vectors is that of its row: another process may have written them.

        Raises:
            RunError: If a link, a pipe or a folder stands in the place of a file.
        """
        there, good = self._rows_in_place(task), self.first_rows(task)
        if {row.photo_checksum for row in there} != {rows[0].photo_checksum}:
            there, good = [], []
        if len(good) >= len(rows):
            return good[: len(rows)]
        first = len(good)
        fresh = [*[None] * first, *results[first:]]
        stored = self._with_vectors(task.id, [*good, *rows[first:]], fresh)
        table = to_table([*stored, *there[len(stored) :]], task.id)
        write_table(self.layout.task_file(task.id), table)
        return stored

    def _with_vectors(
        self, task: str, rows: Sequence[Row], results: Sequence[SVDResult | None]
    ) -> list[Row]:
        """Write the vectors of results; return their rows with the checksums of these files."""
        stored = list(rows)
        for index, result in enumerate(results):
            if result is not None:
                file = self.layout.vector_file(task, index)
                checksum = write_vectors(file, stored[index], result, self.identity)
                stored[index] = replace(stored[index], vectors_checksum=checksum)
        return stored

    def scan(self) -> Iterator[Piece]:
        """Yield what every file of rows holds, and what is wrong with it; each task comes once."""
        seen: set[str] = set()
        singles = self.layout.task_files()
        # Listed after them: what another process merges meanwhile is in one of the two.
        for file in [*self.layout.part_files(), *singles]:
            if file.stem not in seen:
                piece = self.read_task(file).without(seen)
                seen.update(task for task, _ in piece.tasks)
                yield piece

    def read_task(self, file: Path) -> Piece:
        """Return the rows of a file, even if another process has just merged them into a part."""
        piece = read_piece(file, checksums_required=self.checksum is not None)
        if piece.problem and not os.path.lexists(file):
            for part in self.layout.part_files():
                if file.stem in dict(listed_in(part)):
                    merged = read_piece(part, checksums_required=self.checksum is not None)
                    return merged.only({file.stem})
        return piece

    def vectors_checksum(self, task: str, index: int) -> str | None:
        """Return what a row of a task says of the file of its vectors; None if nothing.

        Raises:
            RunError: If the row cannot be read, or was changed.
        """
        piece = self.read_task(self.layout.task_file(task))
        if piece.problem or index in piece.changed or index >= len(piece.table):
            raise RunError(piece.problem or "\n".join(piece.changes()[:1]))
        checksum: str | None = piece.table["vectors_checksum"][index].as_py()
        return checksum

    def table(self) -> pa.Table:
        """Return every row there is, failures included, in the order of manifest and depths.

        Raises:
            RunError: Naming a file that cannot be read, or was changed.
        """
        tables = [SCHEMA.empty_table()]
        for piece in self.scan():
            fault = piece.problem or next(iter(piece.changes()), "")
            if fault:
                raise RunError(fault)
            tables.append(piece.table)
        table = pa.concat_tables(tables)
        photos, depths = Positions(self.samples(), self.identity.layers).find(table)
        # Rows that belong to no photo, -1, come last.
        return table.take(pa.array(np.lexsort((depths, photos, photos < 0))))

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the manifest and of the depths.

        Raises:
            RunError: Naming a file that cannot be read, or was changed.
        """
        return from_table(self.table())


def create_or_continue(
    folder: Path, identity: Identity, depths: Sequence[Depth], unsaid: Collection[str] = ()
) -> Store:
    """Return the store of a new run, or of the same run begun before.

    Args:
        folder: Where it is, or is to be.
        identity: What the run is.
        depths: The depths of `identity.layers`.
        unsaid: Fields of the identity that the caller leaves open: a run goes on with those that it
            was begun with, for defaults depend on the device and on the version.

    Raises:
        DiskError: If the folder cannot be made.
        RunError: If it holds another run or something else.
    """
    layout = Layout(folder)
    if not os.path.lexists(folder / RECORD):
        if os.path.lexists(folder) and (not folder.is_dir() or not layout.is_free()):
            raise RunError(f"{folder} exists and is not a run; choose another --out")
        make_folder(folder)
        write_record(folder, identity, depths)
    # Read back in any case: another share of the same run may have been faster.
    store = open_store(folder)
    begun = {name: getattr(store.identity, name) for name in unsaid}
    difference = store.identity.difference(replace(identity, **begun))
    if difference:
        raise RunError(
            f"{folder} is a run with {difference}; give the same arguments or another --out"
        )
    for name in ("spectra", "vectors") if store.identity.has_vector_files else ("spectra",):
        make_folder(folder / name)
    rows = (*layout.task_files(), *layout.part_files())
    for file in (layout.manifest, *rows, *layout.vector_files()):
        refuse_other_kinds(file)
    for name in ("", "spectra", "vectors", "shards", "report"):
        remove_abandoned(folder / name)
    return store


def check_store(store: object) -> None:
    """Check that a value is the store of a run.

    Raises:
        ArgumentError: If it is not.
    """
    if not isinstance(store, Store):
        what = shown(store)
        raise ArgumentError(f"store is {what}; give survey.open(folder).store of a run's folder")


def open_store(folder: str | os.PathLike[str]) -> Store:
    """Return the store of an existing run.

    Raises:
        RunError: If there is none, or its run.json cannot be read or was changed.
    """
    folder = as_path("folder", folder, "the folder of a run")
    record = read_record(folder)
    return Store(folder, record.identity, record.depths, record.checksum)


def discard(folder: Path, before: set[Path]) -> None:
    """Remove what a call that found no samples has made in a folder.

    Args:
        folder: The folder of the run.
        before: `Layout.first_files` before the call; nothing of it is removed.
    """
    made = Layout(folder).first_files() - before
    for path in sorted(made, reverse=True):  # what is in a folder first
        with contextlib.suppress(OSError):  # a folder in which others have put something
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def set_aside(file: Path) -> Path:
    """Give a file that cannot be read a hidden name that is free, and return it."""
    for number in range(1000):
        aside = file.with_name(f".{file.stem}{f'-{number}' if number else ''}.damaged")
        if not os.path.lexists(aside):
            with writing(file):
                file.rename(aside)
            return aside
    raise RunError(f"{file.parent} holds 1000 damaged files of {file.stem}; remove them")
