"""The folder of a run.

`run.json` says what the run is, `manifest.parquet` which samples it visits. `spectra/ID.parquet`
holds the rows of one finished task, `spectra/part-*.parquet` those of many (see `compaction`), and
`vectors/ID-PLACE.safetensors` the vectors of a row. A file that exists is whole; a task whose rows
exist is finished. Files of other names in these folders are neither read nor changed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from jvpsvd.data import Sample
from jvpsvd.errors import RunError
from jvpsvd.networks import Depth
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.files import (
    ASIDE,
    is_regular,
    make_folder,
    refuse_other_kinds,
    remove_abandoned,
    write_table,
    write_whole,
)
from jvpsvd.survey.store.manifest_file import read_samples, write_samples
from jvpsvd.survey.store.parts import PART, in_part
from jvpsvd.survey.store.pieces import Piece, read_piece
from jvpsvd.survey.store.record import RECORD, read_record, write_record
from jvpsvd.survey.store.rows import PASSING, Row, from_table, to_table
from jvpsvd.svd import SVDResult

MANIFEST = "manifest.parquet"
_TASK = re.compile(r"[0-9a-f]{32}\.parquet")
_VECTORS = re.compile(r"[0-9a-f]{32}-[0-9]{3,}\.safetensors")


@dataclass(frozen=True)
class Store:
    """A run folder on disk."""

    folder: Path
    identity: Identity
    depths: tuple[Depth, ...]
    """The depths of `identity.layers`, with their sizes."""
    checksum: str | None = None
    """Of run.json; None for a run that was begun before there were checksums. In all others, what
    has no checksum counts as changed."""

    def samples(self) -> list[Sample]:
        """Return the manifest.

        Raises:
            RunError: If it is missing, unreadable or changed.
        """
        return read_samples(self.folder / MANIFEST, self.checksum)

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
        file = self.folder / MANIFEST
        refuse_other_kinds(file)
        if file.exists() and not self.has_manifest:
            set_aside(file)
        write_samples(file, samples, self.checksum)

    def finished(self, wanted: Mapping[str, int]) -> set[str]:
        """Return those of these tasks, given with the number of their rows, that need no work.

        A task is taken up again if its file cannot be read or was changed, if it failed in a way
        that another try may mend, or if vectors that belong to its rows are gone.
        """
        singles = [file for file in self.files() if file.stem in wanted]
        # Listed after them: what is gathered meanwhile is in one of the two.
        gathered = dict(pair for part in self.parts() for pair in in_part(part))
        # Only tasks that need no work are gathered, and none whose vectors could be lost.
        done = {task for task, count in gathered.items() if wanted.get(task) == count}
        return done | {
            file.stem
            for file in singles
            if file.stem not in done and self.is_finished(file, wanted[file.stem])
        }

    def commit(
        self, task: str, rows: Sequence[Row], results: Sequence[SVDResult | None] = ()
    ) -> None:
        """Store the rows of a task, its vectors before them.

        Raises:
            RunError: If a link, a pipe or a folder stands in the place of a file.
        """
        rows = list(rows)
        for place, result in enumerate(results):
            if result is not None and result.U is not None and result.Vh is not None:
                tensors = {
                    "U": result.U.cpu().contiguous(),
                    "s": result.s.cpu(),
                    "Vh": result.Vh.cpu().contiguous(),
                }
                names = {
                    name: str(getattr(rows[place], name)) for name in ("shard", "key", "layer")
                }
                data = save(tensors, metadata=names)
                write_whole(self.vectors(task, place), lambda f, data=data: f.write_bytes(data))  # type: ignore[misc]
                rows[place] = replace(rows[place], vectors_checksum=checksum_bytes(data))
        write_table(self.folder / "spectra" / f"{task}.parquet", to_table(rows, task))

    def scan(self) -> Iterator[Piece]:
        """Yield what every file of rows holds, and what is wrong with it; each task comes once."""
        seen: set[str] = set()
        singles = self.files()
        # Listed after them: what another process gathers meanwhile is in one of the two.
        for file in [*self.parts(), *singles]:
            if file.stem not in seen:
                piece = self._piece(file).without(seen)
                seen.update(task for task, _ in piece.tasks)
                yield piece

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows, some tasks at a time, in no particular order.

        Raises:
            RunError: Naming a file that cannot be read, or was changed.
        """
        for piece in self.scan():
            fault = piece.problem or next(iter(piece.changes()), "")
            if fault:
                raise RunError(fault)
            yield piece.table

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the manifest and of the depths.

        Raises:
            RunError: Naming a file that cannot be read, or was changed.
        """
        rows = [row for table in self.tables() for row in from_table(table)]
        places = {(s.shard, s.key): index for index, s in enumerate(self.samples())}
        layers = {name: index for index, name in enumerate(self.identity.layers)}
        last = len(places)
        return sorted(
            rows,
            key=lambda row: (places.get((row.shard, row.key), last), layers.get(row.layer, last)),
        )

    def _piece(self, file: Path) -> Piece:
        """Return the rows of a file, even if another process has just gathered them."""
        piece = read_piece(file, demanded=self.checksum is not None)
        if piece.problem and not os.path.lexists(file):
            for part in self.parts():
                if file.stem in dict(in_part(part)):
                    gathered = read_piece(part, demanded=self.checksum is not None)
                    return gathered.only({file.stem})
        return piece

    def files(self) -> list[Path]:
        """Return the files of single tasks."""
        return _named(self.folder / "spectra", _TASK)

    def parts(self) -> list[Path]:
        """Return the files of many tasks."""
        return _named(self.folder / "spectra", PART)

    def vectors(self, task: str, place: int) -> Path:
        """Return the file of the vectors that belong to a row of a task."""
        return self.folder / "vectors" / f"{task}-{place:03d}.safetensors"

    def vectors_checksum(self, task: str, place: int) -> str | None:
        """Return what the row of a task says of the file of its vectors; None if nothing.

        Raises:
            RunError: If the row cannot be read, or was changed.
        """
        piece = self._piece(self.folder / "spectra" / f"{task}.parquet")
        if piece.problem or place in piece.changed or place >= len(piece.table):
            raise RunError(piece.problem or "\n".join(piece.changes()[:1]))
        checksum: str | None = piece.table["vectors_checksum"][place].as_py()
        return checksum

    def vector_files(self) -> list[Path]:
        """Return the files of vectors that are there."""
        return _named(self.folder / "vectors", _VECTORS)

    def unexpected_files(self) -> list[Path]:
        """Return what lies among the rows and vectors and has no name that a run gives.

        Hidden files are left out, except those that readers of a folder may take for rows.
        """
        found = []
        for name, ending in (("spectra", ".parquet"), ("vectors", ".safetensors")):
            ours = {*_named(self.folder / name, _TASK, PART, _VECTORS)}
            found += [
                file
                for file in _entries(self.folder / name)
                if file not in ours and (not file.name.startswith(".") or file.suffix == ending)
            ]
        return found

    def is_finished(self, file: Path, count: int | None = None) -> bool:
        """Whether the task of a file, of so many rows, needs no further work."""
        piece = self._piece(file)
        if piece.problem or piece.changed:
            return False
        status = piece.table["status"].to_pylist()
        return count in (None, len(status)) and not any(
            kind in PASSING or self._lacks_vectors(file.stem, place, kind)
            for place, kind in enumerate(status)
        )

    def _lacks_vectors(self, task: str, place: int, status: str) -> bool:
        """Whether the vectors of a row are gone, or cut short; they are not read."""
        file = self.vectors(task, place)
        if not self.identity.vectors or status != "ok":
            return False
        if not is_regular(file):
            return True
        try:
            with safe_open(file, framework="np"):  # compares its header with its size
                return False
        except (OSError, SafetensorError):
            return True


def create_or_continue(folder: Path, identity: Identity, depths: Sequence[Depth]) -> Store:
    """Return the store of a new run, or of the same run begun before.

    Raises:
        RunError: If the folder holds another run or something else, or cannot be made.
    """
    if not os.path.lexists(folder / RECORD):
        if os.path.lexists(folder) and (not folder.is_dir() or not _is_free(folder)):
            raise RunError(f"{folder} exists and is not a run; choose another --out")
        make_folder(folder)
        write_record(folder, identity, depths)
    # Read back in any case: another share of the same run may have been faster.
    store = open_store(folder)
    difference = store.identity.difference(identity)
    if difference:
        raise RunError(
            f"{folder} is a run with {difference}; give the same arguments or another --out"
        )
    for name in ("spectra", "vectors") if identity.vectors else ("spectra",):
        make_folder(folder / name)
    for file in (folder / MANIFEST, *store.files(), *store.parts(), *store.vector_files()):
        refuse_other_kinds(file)
    for name in ("", "spectra", "vectors"):
        remove_abandoned(folder / name)
    return store


def discard(folder: Path, before: set[Path]) -> None:
    """Remove what a call that found no samples has made in a folder.

    Args:
        folder: Of the run.
        before: `contents` of the folder before the call; nothing of it is removed.
    """
    for path in sorted(contents(folder) - before, reverse=True):  # what is in a folder first
        with contextlib.suppress(OSError):  # a folder in which others have put something
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def contents(folder: Path) -> set[Path]:
    """Return a folder and what a run makes in it before there are rows, as far as it is there."""
    made = [folder, *(folder / name for name in ("spectra", "vectors", "log", RECORD))]
    made += [folder / "manifest.lock", *_entries(folder / "log")]
    return {path for path in made if os.path.lexists(path)}


def set_aside(file: Path) -> Path:
    """Give a file that cannot be read a hidden name that is free, and return it."""
    for number in range(1000):
        aside = file.with_name(f".{file.stem}{f'-{number}' if number else ''}.damaged")
        if not os.path.lexists(aside):
            file.rename(aside)
            return aside
    raise RunError(f"{file.parent} holds 1000 damaged files of {file.stem}; remove them")


def open_store(folder: Path) -> Store:
    """Return the store of an existing run.

    Raises:
        RunError: If there is none, or its run.json cannot be read or was changed.
    """
    record = read_record(folder)
    return Store(folder, record.identity, record.depths, record.checksum)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _named(folder: Path, *patterns: re.Pattern[str]) -> list[Path]:
    entries = _entries(folder)
    return [file for file in entries if any(one.fullmatch(file.name) for one in patterns)]


def _is_free(folder: Path) -> bool:
    """Whether nothing is there but the demo's shards and what a killed start left behind."""
    return all(e.name == "shards" or e.name.endswith(ASIDE) for e in folder.iterdir())
