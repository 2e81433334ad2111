"""The folder of a run: every file is written aside, synced to the disk, and renamed into place.

`run.json` says what the run is, `manifest.parquet` which samples it visits, `spectra/ID.parquet`
holds the rows of one finished task, `vectors/ID-DEPTH.safetensors` its vectors. A file that exists
is whole; a task whose rows exist is finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
import scipy
import torch
from safetensors.torch import save

from jvpsvd.data import Sample
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.networks import Depth
from jvpsvd.survey.rows import PASSING, SCHEMA, Row, from_table, to_table
from jvpsvd.survey.spec import Spec
from jvpsvd.svd import SVDResult

_ASIDE = ".part"
# Nothing is written for as long as this: an older aside file belongs to a process that died.
_ABANDONED_SECONDS = 3600
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
    spec: Spec
    depths: tuple[Depth, ...]
    """The depths of `spec.layers`, with their sizes."""

    def samples(self) -> list[Sample]:
        """Return the manifest.

        Raises:
            RunError: If it is missing or unreadable.
        """
        table = _read(self.folder / "manifest.parquet", _MANIFEST)
        return [Sample(**record) for record in table.to_pylist()]

    @property
    def has_manifest(self) -> bool:
        """Whether the samples of the run have been listed, and can be read."""
        try:
            self.samples()
        except RunError:
            return False
        return True

    def write_manifest(self, samples: Sequence[Sample]) -> None:
        """Fix the samples that the run visits."""
        records = [sample.__dict__ for sample in samples]
        table = pa.Table.from_pylist(records, schema=_MANIFEST)
        _write_table(self.folder / "manifest.parquet", table)

    def finished(self) -> set[str]:
        """Return the ids of tasks that need no further work.

        A task is taken up again if its file cannot be read, if it failed in a way that another try
        may mend, or if vectors that belong to its rows are gone.
        """
        return {file.stem for file in self._files() if self._is_finished(file)}

    def commit(
        self, task: str, rows: Sequence[Row], results: Sequence[SVDResult | None] = ()
    ) -> None:
        """Store the rows of a task, its vectors before them."""
        for depth, result in enumerate(results):
            if result is not None and result.U is not None and result.Vh is not None:
                tensors = {
                    "U": result.U.cpu().contiguous(),
                    "s": result.s.cpu(),
                    "Vh": result.Vh.cpu().contiguous(),
                }
                names = {
                    name: str(getattr(rows[depth], name)) for name in ("shard", "key", "layer")
                }
                file = self._vectors(task, depth)
                data = save(tensors, metadata=names)
                _write_aside(file, lambda aside, data=data: aside.write_bytes(data))  # type: ignore[misc]
        _write_table(self.folder / "spectra" / f"{task}.parquet", to_table(rows))

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the manifest and of the depths.

        Raises:
            RunError: Naming a file that cannot be read.
        """
        rows = [row for file in self._files() for row in from_table(_read(file, SCHEMA))]
        places = {(s.shard, s.key): index for index, s in enumerate(self.samples())}
        layers = {name: index for index, name in enumerate(self.spec.layers)}
        last = len(places)
        return sorted(
            rows,
            key=lambda row: (places.get((row.shard, row.key), last), layers.get(row.layer, last)),
        )

    def scan(self) -> tuple[list[Row], list[str]]:
        """Return every row that can be read, and a line for everything that cannot or is gone."""
        rows: list[Row] = []
        problems: list[str] = []
        for file in self._files():
            try:
                mine = from_table(_read(file, SCHEMA))
            except RunError as error:
                problems.append(f"unreadable: {error}")
                continue
            rows += mine
            problems += [
                f"no vectors: {row.shard} {row.key} {row.layer}"
                for depth, row in enumerate(mine)
                if self._lacks_vectors(file.stem, depth, row.status)
            ]
        return rows, problems

    def _files(self) -> list[Path]:
        return sorted((self.folder / "spectra").glob("*.parquet"))

    def _vectors(self, task: str, depth: int) -> Path:
        return self.folder / "vectors" / f"{task}-{depth:03d}.safetensors"

    def _lacks_vectors(self, task: str, depth: int, status: str) -> bool:
        return self.spec.vectors and status == "ok" and not self._vectors(task, depth).exists()

    def _is_finished(self, file: Path) -> bool:
        try:
            status = pq.read_table(file, columns=["status"])["status"].to_pylist()
        except (OSError, KeyError, pa.ArrowException):
            return False
        return len(status) == len(self.spec.layers) and not any(
            kind in PASSING or self._lacks_vectors(file.stem, depth, kind)
            for depth, kind in enumerate(status)
        )


def create_or_continue(folder: Path, spec: Spec, depths: Sequence[Depth]) -> Store:
    """Return the store of a new run, or of the same run begun before.

    Raises:
        RunError: If the folder holds a run of another spec, or something else.
    """
    if not (folder / "run.json").exists():
        if folder.exists() and (not folder.is_dir() or not _is_free(folder)):
            raise RunError(f"{folder} exists and is not a run; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "spec": spec.to_json(),
            "depths": [depth.__dict__ for depth in depths],
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
        }
        text = json.dumps(record, indent=2) + "\n"
        _write_first(folder / "run.json", lambda aside: aside.write_text(text))
    # Read back in any case: another share of the same run may have been faster.
    store = open_run(folder)
    difference = store.spec.difference(spec)
    if difference:
        raise RunError(
            f"{folder} is a run with {difference}; give the same arguments or another --out"
        )
    for name in ("spectra", "vectors") if spec.vectors else ("spectra",):
        (folder / name).mkdir(exist_ok=True)
    for left_over in folder.rglob(f"*{_ASIDE}"):
        if time.time() - left_over.stat().st_mtime > _ABANDONED_SECONDS:
            left_over.unlink(missing_ok=True)
    return store


def open_run(folder: Path) -> Store:
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
        spec = Spec.from_json(record["spec"])
        places = tuple(
            Depth(depth["name"], depth["kind"], tuple(depth["shape"])) for depth in record["depths"]
        )
    except (ValueError, KeyError, TypeError, ArgumentError) as error:
        raise RunError(f"{file} cannot be read: {error}") from error
    return Store(folder, spec, places)


def _is_free(folder: Path) -> bool:
    """Whether nothing is there but the demo's shards and what a killed start left behind."""
    return all(e.name == "shards" or e.name.endswith(_ASIDE) for e in folder.iterdir())


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.ParquetFile(file).read().select(schema.names).cast(schema)
    except (OSError, KeyError, pa.ArrowException) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{file} cannot be read ({first}); the same run again mends it") from error


def _write_table(file: Path, table: pa.Table) -> None:
    _write_aside(file, lambda aside: pq.write_table(table, aside))


def _write_aside(file: Path, write: Callable[[Path], object]) -> None:
    aside = _written_aside(file, write)
    aside.replace(file)
    _sync(file.parent)


def _write_first(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file unless another process has already written it."""
    aside = _written_aside(file, write)
    with contextlib.suppress(FileExistsError):
        os.link(aside, file)
    aside.unlink()
    _sync(file.parent)


def _written_aside(file: Path, write: Callable[[Path], object]) -> Path:
    # A name of its own for every writer: shares of one run write side by side.
    aside = file.with_name(f"{file.name}.{os.getpid()}-{secrets.token_hex(4)}{_ASIDE}")
    write(aside)
    _sync(aside)
    return aside


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str]:
    return {
        "jvpsvd": version("jvpsvd"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pa.__version__,
    }
