"""The folder of a run.

`run.json` says what the run is, `manifest.parquet` which samples it visits. `spectra/ID.parquet`
holds the rows of one finished task, `spectra/part-*.parquet` those of many (see `compaction`), and
`vectors/ID-PLACE.safetensors` the vectors of a row. A file that exists is whole; a task whose rows
exist is finished.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import scipy
import torch
from safetensors.torch import save

from jvpsvd.data import Sample
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.networks import Depth
from jvpsvd.survey.files import (
    ASIDE,
    read_table,
    remove_abandoned,
    write_first,
    write_table,
    write_whole,
)
from jvpsvd.survey.identity import Identity
from jvpsvd.survey.parts import PART, in_part
from jvpsvd.survey.rows import ADDED, PASSING, SCHEMA, Row, from_table, to_table
from jvpsvd.svd import SVDResult

_MANIFEST = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int64()),
        ("wnid", pa.string()),
        ("problem", pa.string()),
        ("message", pa.string()),
    ]
)


@dataclass(frozen=True)
class Store:
    """A run folder on disk."""

    folder: Path
    identity: Identity
    depths: tuple[Depth, ...]
    """The depths of `identity.layers`, with their sizes."""

    def samples(self) -> list[Sample]:
        """Return the manifest.

        Raises:
            RunError: If it is missing or unreadable.
        """
        table = read_table(self.folder / "manifest.parquet", _MANIFEST)
        return [Sample(**record) for record in table.to_pylist()]

    @property
    def has_manifest(self) -> bool:
        """Whether the samples of the run have been listed, and can be read."""
        try:
            read_table(self.folder / "manifest.parquet", _MANIFEST)
        except RunError:
            return False
        return True

    def write_manifest(self, samples: Sequence[Sample]) -> None:
        """Fix the samples that the run visits."""
        table = pa.Table.from_pylist([asdict(sample) for sample in samples], schema=_MANIFEST)
        write_table(self.folder / "manifest.parquet", table)

    def finished(self, wanted: Mapping[str, int]) -> set[str]:
        """Return those of these tasks, given with the number of their rows, that need no work.

        A task is taken up again if its file cannot be read, if it failed in a way that another try
        may mend, or if vectors that belong to its rows are gone.
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
        """Store the rows of a task, its vectors before them."""
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
        write_table(self.folder / "spectra" / f"{task}.parquet", to_table(rows))

    def tables(self) -> Iterator[pa.Table]:
        """Yield all rows, some tasks at a time, in no particular order.

        Raises:
            RunError: Naming a file that cannot be read.
        """
        for file in self._pieces():
            yield self._table(file)

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the manifest and of the depths.

        Raises:
            RunError: Naming a file that cannot be read.
        """
        rows = [row for table in self.tables() for row in from_table(table)]
        places = {(s.shard, s.key): index for index, s in enumerate(self.samples())}
        layers = {name: index for index, name in enumerate(self.identity.layers)}
        last = len(places)
        return sorted(
            rows,
            key=lambda row: (places.get((row.shard, row.key), last), layers.get(row.layer, last)),
        )

    def scan(self) -> Iterator[tuple[list[Row], list[str]]]:
        """Yield the rows that can be read, some tasks at a time, and a line for what cannot."""
        for file in self._pieces():
            try:
                yield from_table(self._table(file)), []
            except RunError as error:
                yield [], [f"unreadable: {error}"]

    def _pieces(self) -> list[Path]:
        """Return files that together hold every row once."""
        singles = self.files()
        # Listed after them: what another process gathers meanwhile is in one of the two.
        parts = self.parts()
        gathered = {task for part in parts for task, _ in in_part(part)}
        return [*parts, *(file for file in singles if file.stem not in gathered)]

    def _table(self, file: Path) -> pa.Table:
        """Return the rows of a piece, even if another process has just gathered them."""
        try:
            return read_table(file, SCHEMA, ADDED)
        except RunError:
            if file.exists():
                raise
            for part in self.parts():
                start = 0
                for task, count in in_part(part):
                    if task == file.stem:
                        return read_table(part, SCHEMA, ADDED).slice(start, count)
                    start += count
            raise

    def files(self) -> list[Path]:
        """Return the files of single tasks."""
        every = (self.folder / "spectra").glob("*.parquet")
        return sorted(file for file in every if not file.name.startswith(PART))

    def parts(self) -> list[Path]:
        """Return the files of many tasks."""
        return sorted((self.folder / "spectra").glob(f"{PART}*.parquet"))

    def vectors(self, task: str, place: int) -> Path:
        """Return the file of the vectors that belong to a row of a task."""
        return self.folder / "vectors" / f"{task}-{place:03d}.safetensors"

    def is_finished(self, file: Path, count: int | None = None) -> bool:
        """Whether the task of a file, of so many rows, needs no further work."""
        try:
            status = self._table(file)["status"].to_pylist()
        except RunError:
            return False
        return count in (None, len(status)) and not any(
            kind in PASSING or self._lacks_vectors(file.stem, place, kind)
            for place, kind in enumerate(status)
        )

    def _lacks_vectors(self, task: str, place: int, status: str) -> bool:
        return self.identity.vectors and status == "ok" and not self.vectors(task, place).exists()


def create_or_continue(folder: Path, identity: Identity, depths: Sequence[Depth]) -> Store:
    """Return the store of a new run, or of the same run begun before.

    Raises:
        RunError: If the folder holds another run or something else, or cannot be made.
    """
    if not (folder / "run.json").exists():
        if folder.exists() and (not folder.is_dir() or not _is_free(folder)):
            raise RunError(f"{folder} exists and is not a run; choose another --out")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(
                f"{folder} cannot be made ({error.strerror}); choose another --out"
            ) from error
        record = {
            "identity": identity.to_json(),
            "depths": [asdict(depth) for depth in depths],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
        }
        text = json.dumps(record, indent=2) + "\n"
        write_first(folder / "run.json", lambda aside: aside.write_text(text))
    # Read back in any case: another share of the same run may have been faster.
    store = open_store(folder)
    difference = store.identity.difference(identity)
    if difference:
        raise RunError(
            f"{folder} is a run with {difference}; give the same arguments or another --out"
        )
    for name in ("spectra", "vectors") if identity.vectors else ("spectra",):
        (folder / name).mkdir(exist_ok=True)
    remove_abandoned(folder)
    return store


def discard(folder: Path) -> None:
    """Remove what a run without a manifest has left: nothing was computed in it."""
    for name in ("spectra", "vectors", "log"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("run.json", "manifest.lock"):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the demo's shards may lie there
        folder.rmdir()


def open_store(folder: Path) -> Store:
    """Return the store of an existing run.

    Raises:
        RunError: If there is none, or its run.json cannot be read.
    """
    file = folder / "run.json"
    if not file.is_file():
        raise RunError(
            f"{folder} is not a run (no run.json); give the folder of 'jvpsvd run --out'"
        )
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        identity = Identity.from_json(record["identity"])
        places = tuple(
            Depth(depth["name"], depth["kind"], tuple(depth["shape"])) for depth in record["depths"]
        )
    except (ValueError, KeyError, TypeError, ArgumentError) as error:
        raise RunError(
            f"{file} cannot be read ({type(error).__name__}: {error}); restore it, or begin again "
            "in another folder"
        ) from error
    return Store(folder, identity, places)


def _is_free(folder: Path) -> bool:
    """Whether nothing is there but the demo's shards and what a killed start left behind."""
    return all(e.name == "shards" or e.name.endswith(ASIDE) for e in folder.iterdir())


def _versions() -> dict[str, str]:
    return {
        "jvpsvd": version("jvpsvd"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pa.__version__,
    }
