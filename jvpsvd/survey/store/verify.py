"""Whether a run is whole: every sample of its manifest at every depth, as values or as a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from jvpsvd.errors import RunError
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.rows import Row, from_table
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.survey.store.run_data import FileRows, RunData
from jvpsvd.survey.store.small_vectors import expected_shapes
from jvpsvd.survey.store.store import Store, check_store
from jvpsvd.survey.store.vectors import read_vectors

_Name = tuple[str, str, str]
"""Shard, key and depth of a row."""


@dataclass(frozen=True)
class Verification:
    """What a run holds, measured against its manifest."""

    values: int
    """Rows with singular values."""
    failures: int
    """Rows with a reason instead."""
    unconverged: int
    """Triplets, over all rows with values, that are not certified."""
    problems: tuple[str, ...]
    """What is missing, changed or wrong, a line each; empty for a whole run."""
    unchecked: int = 0
    """Rows without a checksum, in a run that was begun before there were any. A change of their
    values is noticed only where it makes them impossible."""


def verify(store: Store) -> Verification:
    """Read everything back, file by file, and compare it with its checksums and the manifest.

    Raises:
        ArgumentError: If the store is none.
    """
    check_store(store)
    try:
        run, problems = RunData(store, store.samples()), []
    except RunError as error:
        run, problems = RunData(store, ()), [f"no manifest: {error}"]
    found: Counter[_Name] = Counter()
    wrong: list[str] = []
    counts, unchecked = RunCounts(), 0
    for file in run.files():
        piece = file.piece
        if piece.problem:
            problems.append(f"unreadable: {piece.problem}")
        problems += [f"changed: {line}" for line in piece.changes()]
        counts = counts.with_rows(from_table(piece.unchanged))
        unchecked += piece.unchecked
        for name, row, fault in _named_rows(run, file):
            found[name] += 1
            if row is None:
                continue
            if fault:
                wrong.append(f"wrong: {' '.join(name)}: {fault}")
            fault = _find_vector_fault(run, row)
            if fault:
                problems.append(f"{fault}: {' '.join(name)}")
    if not run.samples:
        return Verification(0, 0, 0, tuple(problems))
    problems += _list_unexpected_files(run)
    expected = {name for task in run.tasks.values() for name in _row_names(run, task)}
    problems += [f"missing: {' '.join(name)}" for name in sorted(expected - found.keys())]
    problems += [f"twice: {' '.join(name)}" for name, count in found.items() if count > 1]
    problems += [f"not in the manifest: {' '.join(n)}" for n in sorted(found.keys() - expected)]
    lines = (*problems, *wrong)
    return Verification(counts.values, counts.failures, counts.unconverged, lines, unchecked)


def _row_names(run: RunData, task: Task) -> list[_Name]:
    """Return the names of the rows of a task, in their order."""
    layers = run.store.identity.layers
    return [(sample.shard, sample.key, layer) for sample in task.samples for layer in layers]


def _named_rows(run: RunData, file: FileRows) -> Iterator[tuple[_Name, Row | None, str]]:
    """Yield each row of a file with its name and what is wrong with it.

    A row that was changed is None; its name is the one that the manifest has at its position.
    """
    rows, changed = from_table(file.piece.table), {*file.piece.changed}
    for task, indices in file.piece.rows_of_tasks():
        expected = _row_names(run, run.tasks[task]) if task in run.tasks else []
        for at, index in enumerate(indices):
            row = rows[index]
            name = (row.shard, row.key, row.layer)
            if index in changed:
                yield expected[at] if at < len(expected) else name, None, ""
            elif run.row_in_task(*name) not in (None, (task, at)):
                yield name, row, f"not at its position in {file.piece.file.name}"
            else:
                fault = file.faults[index] or _find_difference(run, row, file.photos[index])
                yield name, row, fault


def _find_difference(run: RunData, row: Row, photo: int) -> str:
    """Return in what a row differs from its sample in the manifest, or nothing."""
    if photo < 0:
        return ""  # the row itself is not in the manifest
    sample = run.samples[photo]
    if (row.label, row.wnid) != (sample.label, sample.wnid):
        return (
            f"label {row.label} and wnid {row.wnid}; the manifest has {sample.label} and "
            f"{sample.wnid}"
        )
    if sample.problem and row.status != sample.problem:
        return f"status {row.status}; the manifest has {sample.problem}"
    return ""


def _find_vector_fault(run: RunData, row: Row) -> str:
    """Return what is wrong with the vectors of a row, read back from the disk, or nothing."""
    store, identity = run.store, run.store.identity
    file = run.vector_file(row.shard, row.key, row.layer)
    if not identity.has_vector_files or row.status != "ok" or file is None:
        return ""
    depth = next(depth for depth in store.depths if depth.name == row.layer)
    if not is_regular(file):
        return "no vectors"
    try:
        found, checksum = read_vectors(file)
    except RunError:
        return "unreadable vectors"
    n = identity.columns
    shapes: Mapping[str, tuple[int, ...]]
    shapes = {"U": (depth.numel, row.k), "s": (row.k,), "Vh": (row.k, n)}
    if not identity.vectors:
        shapes = expected_shapes(identity, row.k, depth.numel)
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != shapes:
        return "vectors of another shape"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        return "vectors that are not finite"
    if not torch.equal(found["s"].double(), torch.tensor(row.s, dtype=torch.float64)):
        return "vectors of other values"
    if row.vectors_checksum is None:
        return "vectors without a checksum" if store.checksum is not None else ""
    if checksum != row.vectors_checksum:
        return f"vectors that were changed (remove {file.name}, and the same run makes them again)"
    return ""


def _list_unexpected_files(run: RunData) -> list[str]:
    layout, rows = run.store.layout, len(run.store.identity.layers)
    named = {
        layout.vector_file(task.id, index)
        for task in run.tasks.values()
        for index in range(len(task.samples) * rows)
    }
    files = [
        *(file for file in layout.task_files() if file.stem not in run.tasks),
        *(file for file in layout.vector_files() if file not in named),
    ]
    return [
        *(f"unexpected: {file.name} is no task of the manifest; remove it" for file in files),
        *(
            f"unexpected: {file} is no file of a run; move it away"
            for file in layout.unexpected_files()
        ),
    ]
