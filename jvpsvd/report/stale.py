"""Files of an earlier report that the next one does not write: they are removed.

A folder of a report may hold files of others as well: the figure that `jvpsvd run` draws, a user's
notes. So each report notes the names and hashes of what it wrote, and the next one removes only
what is noted and is still the same, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from jvpsvd.machine import writing
from jvpsvd.survey.store.notes import read_notes, write_notes

RECORD = ".written.json"
"""The note beside the files of a report. Hidden: it is nothing to read."""


def begin_report(folder: Path) -> None:
    """Note that a folder is that of a report, before anything is written into it.

    Raises:
        DiskError: If the folder cannot be written.

    Example: ``begin_report(Path("run/report"))``.
    """
    if not (folder / RECORD).exists():
        with writing(folder / RECORD):
            write_notes(folder / RECORD, {}, indent=2)


def remove_stale(folder: Path, written: Sequence[Path]) -> list[Path]:
    """Remove what the report before wrote and this one did not; note what this one wrote.

    Without a readable note nothing is removed.

    Args:
        folder: Of the report.
        written: The files of the new report, which lie in the folder.

    Returns:
        What was removed.

    Raises:
        DiskError: If the folder cannot be written.

    Example: ``remove_stale(Path("run/report"), [Path("run/report/index.html")])``.
    """
    hashes = {file.name: _hash(file) for file in written}
    removed: list[Path] = []
    for name, digest in _read_hashes(folder / RECORD).items():
        file = folder / name
        if name in hashes or file.is_symlink() or not file.is_file() or _hash(file) != digest:
            continue
        with writing(file):
            file.unlink()
        removed.append(file)
    with writing(folder / RECORD):
        write_notes(folder / RECORD, hashes, indent=2)
    return removed


def _read_hashes(record: Path) -> dict[str, str]:
    """Return hashes by name, of names that stay within the folder."""
    return {
        name: digest
        for name, digest in read_notes(record).items()
        if Path(name).name == name and "\0" not in name and isinstance(digest, str)
    }


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
