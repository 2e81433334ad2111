"""The folder of a run: every file is written aside, synced to the disk, and renamed into place.

`run.json` says what the run is, `manifest.parquet` which samples it visits, `spectra/ID.parquet`
holds the rows of one finished task, `vectors/ID-DEPTH.safetensors` its vectors. A file that exists
is whole; a task whose rows exist is finished.
"""

from __future__ import annotations

import json
import os
import platform
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
from jvpsvd.survey.rows import SCHEMA, Row, from_table, to_table
from jvpsvd.survey.spec import Spec
from jvpsvd.svd import SVDResult

_ASIDE = ".part"
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
        """Whether the samples of the run have been listed."""
        return (self.folder / "manifest.parquet").exists()

    def write_manifest(self, samples: Sequence[Sample]) -> None:
        """Fix the samples that the run visits."""
        records = [sample.__dict__ for sample in samples]
        table = pa.Table.from_pylist(records, schema=_MANIFEST)
        _write_table(self.folder / "manifest.parquet", table)

    def finished(self) -> set[str]:
        """Return the ids of tasks whose rows are on disk."""
        return {file.stem for file in (self.folder / "spectra").glob("*.parquet")}

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
                file = self.folder / "vectors" / f"{task}-{depth:03d}.safetensors"
                data = save(tensors, metadata=names)
                _write_aside(file, lambda aside, data=data: aside.write_bytes(data))  # type: ignore[misc]
        _write_table(self.folder / "spectra" / f"{task}.parquet", to_table(rows))

    def rows(self) -> list[Row]:
        """Return all rows, in the order of the manifest and of the depths.

        Raises:
            RunError: Naming a file that cannot be read.
        """
        files = sorted((self.folder / "spectra").glob("*.parquet"))
        rows = [row for file in files for row in from_table(_read(file, SCHEMA))]
        places = {(s.shard, s.key): index for index, s in enumerate(self.samples())}
        layers = {name: index for index, name in enumerate(self.spec.layers)}
        last = len(places)
        return sorted(
            rows,
            key=lambda row: (places.get((row.shard, row.key), last), layers.get(row.layer, last)),
        )


def create_or_continue(folder: Path, spec: Spec, depths: Sequence[Depth]) -> Store:
    """Return the store of a new run, or of the same run begun before.

    Raises:
        RunError: If the folder holds a run of another spec, or something else.
    """
    if (folder / "run.json").exists():
        store = open_run(folder)
        difference = store.spec.difference(spec)
        if difference:
            raise RunError(
                f"{folder} is a run with {difference}; give the same arguments or another --out"
            )
        for left_over in folder.glob(f"**/*{_ASIDE}"):
            left_over.unlink()
        return store
    if folder.exists() and (not folder.is_dir() or not _is_free(folder)):
        raise RunError(f"{folder} exists and is not a run; choose another --out")
    for name in ("spectra", "vectors") if spec.vectors else ("spectra",):
        (folder / name).mkdir(parents=True, exist_ok=True)
    record = {
        "spec": spec.to_json(),
        "depths": [depth.__dict__ for depth in depths],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    text = json.dumps(record, indent=2) + "\n"
    _write_aside(folder / "run.json", lambda aside: aside.write_text(text))
    return Store(folder, spec, tuple(depths))


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
    """Whether nothing but packed shards of the demo, or nothing at all, is there."""
    return all(entry.name == "shards" for entry in folder.iterdir())


def _read(file: Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.ParquetFile(file).read().select(schema.names).cast(schema)
    except (OSError, KeyError, pa.ArrowException) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{file} cannot be read ({first}); delete it and run again") from error


def _write_table(file: Path, table: pa.Table) -> None:
    _write_aside(file, lambda aside: pq.write_table(table, aside))


def _write_aside(file: Path, write: Callable[[Path], object]) -> None:
    aside = file.with_name(file.name + _ASIDE)
    write(aside)
    _sync(aside)
    aside.replace(file)
    _sync(file.parent)


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
