"""Names of the files in the folder of a run.

`run.json` says what the run is, `manifest.parquet` which samples it visits. `spectra/ID.parquet`
holds the rows of one task, `spectra/part-*.parquet` those of many (see `compaction`), and
`vectors/ID-INDEX.safetensors` the vectors of a row. Files of other names in these folders are
neither read nor changed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jvpsvd.machine import ASIDE
from jvpsvd.survey.store.parts import PART
from jvpsvd.survey.store.record import RECORD

_TASK = re.compile(r"[0-9a-f]{32}\.parquet")
_VECTORS = re.compile(r"[0-9a-f]{32}-[0-9]{3,}\.safetensors")


@dataclass(frozen=True)
class Layout:
    """The files of a run, by name."""

    folder: Path

    @property
    def manifest(self) -> Path:
        """The file of the samples."""
        return self.folder / "manifest.parquet"

    @property
    def spectra(self) -> Path:
        """The folder of the rows."""
        return self.folder / "spectra"

    def task_file(self, task: str) -> Path:
        """Return the file of the rows of one task."""
        return self.spectra / f"{task}.parquet"

    def task_files(self) -> list[Path]:
        """Return the files of single tasks that are there."""
        return _list_named(self.spectra, _TASK)

    def part_files(self) -> list[Path]:
        """Return the files of many tasks that are there."""
        return _list_named(self.spectra, PART)

    def vector_file(self, task: str, index: int) -> Path:
        """Return the file of the vectors that belong to a row of a task."""
        return self.folder / "vectors" / f"{task}-{index:03d}.safetensors"

    def vector_files(self) -> list[Path]:
        """Return the files of vectors that are there."""
        return _list_named(self.folder / "vectors", _VECTORS)

    def unexpected_files(self) -> list[Path]:
        """Return what lies among the rows and vectors and has no name that a run gives.

        Hidden files are left out, except those that readers of a folder may take for rows.
        """
        # Each folder is listed once: another process may add a file of a run meanwhile.
        return [
            file
            for name, ending in (("spectra", ".parquet"), ("vectors", ".safetensors"))
            for file in list_folder(self.folder / name)
            if not _is_named(file, _TASK, PART, _VECTORS)
            and (not file.name.startswith(".") or file.suffix == ending)
        ]

    def first_files(self) -> set[Path]:
        """Return the folder and what a run makes in it before there are rows, if it is there."""
        made = [self.folder, *(self.folder / name for name in ("spectra", "vectors", "log"))]
        made += [self.folder / RECORD, self.folder / "manifest.lock"]
        return {path for path in [*made, *list_folder(made[3])] if os.path.lexists(path)}

    def is_free(self) -> bool:
        """Whether nothing is there but the demo's shards and what a killed start left behind."""
        return all(e.name == "shards" or e.name.endswith(ASIDE) for e in self.folder.iterdir())


def list_folder(folder: Path) -> list[Path]:
    """Return the sorted entries of a folder; none of one that cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _list_named(folder: Path, *patterns: re.Pattern[str]) -> list[Path]:
    return [file for file in list_folder(folder) if _is_named(file, *patterns)]


def _is_named(file: Path, *patterns: re.Pattern[str]) -> bool:
    return any(pattern.fullmatch(file.name) for pattern in patterns)
