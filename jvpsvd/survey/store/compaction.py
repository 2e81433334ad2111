"""Many files of single tasks become few: a file system, and a query, likes that better.

A part is written whole before the files that it replaces are removed; what a kill in between leaves
twice has the same name, is read once, and removed by the next compaction.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import Timeout

from jvpsvd.machine import writing
from jvpsvd.survey.store.files import locked, read_table
from jvpsvd.survey.store.parts import listed_in, write_part
from jvpsvd.survey.store.pieces import read_piece, salvage
from jvpsvd.survey.store.rows import MAY_BE_NULL, SCHEMA
from jvpsvd.survey.store.store import Store, check_store, set_aside

FEW = 512
"""Files of single tasks that are left alone."""

_TASKS_PER_PART = 8192


def compact(store: Store, *, few: int = FEW) -> int:
    """Merge the rows of finished tasks into parts; return how many files were merged.

    Nothing is done where another process does it, for runs that store vectors, and for `few` files
    or less. Tasks that another run may mend stay as they are.

    Raises:
        ArgumentError: If the store is none.
        DiskError: If the folder of the run cannot be written.
    """
    check_store(store)
    if store.identity.has_vector_files:
        return 0
    try:
        with locked(store.folder / "compaction.lock", timeout=0):
            _finish_killed(store)
            return _merge(store, few)
    except Timeout:
        return 0


def _finish_killed(store: Store) -> None:
    """Remove what a compaction that was killed left twice, and mend parts that were damaged."""
    for part in store.layout.part_files():
        piece = read_piece(part, checksums_required=store.checksum is not None)
        tasks = [task for task, _ in piece.tasks]
        if piece.problem or piece.changed:
            # Written before the damaged one gets another name: at no instant is a row gone.
            good = salvage(part, checksums_required=store.checksum is not None)
            mended = write_part(part.parent, good) if good else None
            if mended != part:  # the same where every row was found: the new one replaced it
                set_aside(part)
            tasks = [task for task, _ in good]
        for task in tasks:
            _remove(store.layout.task_file(task))


def _merge(store: Store, few: int) -> int:
    merged_before = {task for part in store.layout.part_files() for task, _ in listed_in(part)}
    files = [file for file in store.layout.task_files() if file.stem not in merged_before]
    if len(files) <= few:
        return 0
    merged = 0
    for start in range(0, len(files), _TASKS_PER_PART):
        some = files[start : start + _TASKS_PER_PART]
        done = [file for file in some if store.is_finished(file)]
        if len(done) > 1:
            write_part(
                store.layout.spectra,
                [(file.stem, read_table(file, SCHEMA, MAY_BE_NULL)) for file in done],
            )
            for file in done:
                _remove(file)
            merged += len(done)
    return merged


def _remove(file: Path) -> None:
    with writing(file), contextlib.suppress(FileNotFoundError):
        file.unlink()
