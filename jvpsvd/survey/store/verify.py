"""Whether a run is whole: every sample of its manifest at every depth, as values or as a reason."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import safetensors.torch
import torch
from safetensors import SafetensorError

from jvpsvd.data import Sample
from jvpsvd.errors import RunError
from jvpsvd.survey.spec.tasks import tasks
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.pieces import Piece
from jvpsvd.survey.store.rows import Row, from_table
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.survey.store.store import Store

_Place = tuple[str, str, str]
"""Shard, key and depth."""


@dataclass(frozen=True)
class Verification:
    """What a run holds, measured against its manifest."""

    values: int
    """Rows with singular values."""
    failures: int
    """Rows with a reason instead."""
    unconverged: int
    """Triplets, over all rows with values, that missed the tolerance."""
    problems: tuple[str, ...]
    """What is missing, changed or wrong, a line each; empty for a whole run."""
    unchecked: int = 0
    """Rows without a checksum: of a run begun before there were any. A change of their values is
    noticed only where it makes them impossible."""


@dataclass(frozen=True)
class _Expected:
    """What the manifest says of every task and sample."""

    samples: Mapping[tuple[str, str], Sample]
    rows: Mapping[str, list[_Place]]
    """Of each task, in their order."""
    index: Mapping[_Place, tuple[str, int]]
    """Task of each row, and its index there."""


def verify(store: Store) -> Verification:
    """Read everything back, file by file, and compare it with its checksums and the manifest."""
    try:
        samples = store.samples()
    except RunError as error:
        samples, problems = [], [f"no manifest: {error}"]
    else:
        problems = []
    expected = _expected(store, samples)
    found: Counter[_Place] = Counter()
    wrong: list[str] = []
    counts, unchecked = RunCounts(), 0
    for piece in store.scan():
        if piece.problem:
            problems.append(f"unreadable: {piece.problem}")
        problems += [f"changed: {line}" for line in piece.changes()]
        counts = counts.with_rows(from_table(piece.unchanged))
        unchecked += piece.unchecked
        for place, row, fault in _rows_of(piece, expected):
            found[place] += 1
            if row is None:
                continue
            fault = fault or _fault(row, store.identity.k, store.identity.tol)
            if not fault and samples:
                fault = _manifest_fault(row, expected)
            if fault:
                wrong.append(f"wrong: {' '.join(place)}: {fault}")
            fault = _vector_fault(store, row, expected)
            if fault:
                problems.append(f"{fault}: {' '.join(place)}")
    if not samples:
        return Verification(0, 0, 0, tuple(problems))
    problems += _unexpected(store, expected)
    places = expected.index.keys()
    problems += [f"missing: {' '.join(place)}" for place in sorted(places - found.keys())]
    problems += [f"twice: {' '.join(place)}" for place, count in found.items() if count > 1]
    problems += [f"not in the manifest: {' '.join(p)}" for p in sorted(found.keys() - places)]
    lines = (*problems, *wrong)
    return Verification(counts.values, counts.failures, counts.unconverged, lines, unchecked)


def _expected(store: Store, samples: list[Sample]) -> _Expected:
    rows = {
        task.id: [(s.shard, s.key, layer) for s in task.samples for layer in store.identity.layers]
        for task in tasks(store.identity, samples)
    }
    index = {
        place: (task, at) for task, of_task in rows.items() for at, place in enumerate(of_task)
    }
    return _Expected({(s.shard, s.key): s for s in samples}, rows, index)


def _rows_of(piece: Piece, expected: _Expected) -> Iterator[tuple[_Place, Row | None, str]]:
    """Yield each row with its place and what is wrong with that.

    A row that was changed is None; its place is the one that the manifest has there.
    """
    rows, changed = from_table(piece.table), {*piece.changed}
    for task, indices in piece.of_tasks():
        of_task = expected.rows.get(task, [])
        for at, index in enumerate(indices):
            row = rows[index]
            place = (row.shard, row.key, row.layer)
            if index in changed:
                yield of_task[at] if at < len(of_task) else place, None, ""
            elif expected.index.get(place, (task, at)) != (task, at):
                yield place, row, f"not at its place in {piece.file.name}"
            else:
                yield place, row, ""


def _unexpected(store: Store, expected: _Expected) -> list[str]:
    tasks = expected.rows
    named = {store.vectors(task, at) for task, places in tasks.items() for at in range(len(places))}
    files = [
        *(file for file in store.files() if file.stem not in tasks),
        *(file for file in store.vector_files() if file not in named),
    ]
    return [
        *(f"unexpected: {file.name} is no task of the manifest; remove it" for file in files),
        *(
            f"unexpected: {file} is no file of a run; move it away"
            for file in store.unexpected_files()
        ),
    ]


def _manifest_fault(row: Row, expected: _Expected) -> str:
    """Return in what a row differs from its sample in the manifest, or nothing."""
    sample = expected.samples.get((row.shard, row.key))
    if sample is None:
        return ""  # the row itself is not in the manifest
    if (row.label, row.wnid) != (sample.label, sample.wnid):
        return (
            f"label {row.label} and wnid {row.wnid}; the manifest has {sample.label} and "
            f"{sample.wnid}"
        )
    if sample.problem and row.status != sample.problem:
        return f"status {row.status}; the manifest has {sample.problem}"
    return ""


def _vector_fault(store: Store, row: Row, expected: _Expected) -> str:
    """Return what is wrong with the vectors of a row, read back from the disk, or nothing."""
    identity = store.identity
    place = (row.shard, row.key, row.layer)
    if not identity.vectors or row.status != "ok" or place not in expected.index:
        return ""
    depth = next(depth for depth in store.depths if depth.name == row.layer)
    file = store.vectors(*expected.index[place])
    if not is_regular(file):
        return "no vectors"
    try:
        data = file.read_bytes()
        found = safetensors.torch.load(data)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return "unreadable vectors"
    n = math.prod(identity.photo_input.shape)
    shapes = {"U": (depth.numel, row.k), "s": (row.k,), "Vh": (row.k, n)}
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != shapes:
        return "vectors of another shape"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        return "vectors that are not finite"
    if not torch.equal(found["s"].double(), torch.tensor(row.s, dtype=torch.float64)):
        return "vectors of other values"
    if row.vectors_checksum is None:
        return "vectors without a checksum" if store.checksum is not None else ""
    if checksum_bytes(data) != row.vectors_checksum:
        return f"vectors that were changed (remove {file.name}, and the same run makes them again)"
    return ""


def _fault(row: Row, k: int, tol: float) -> str:
    """Return what makes a row impossible, or nothing."""
    if row.k != k:
        return f"k = {row.k}, not {k}"
    if row.status != "ok":
        return "" if row.message else "a failure without a reason"
    if not (len(row.s) == len(row.residuals) == row.k == k):
        return f"{len(row.s)} values and {len(row.residuals)} residuals for k = {k}"
    if not all(math.isfinite(x) and x >= 0 for x in (*row.s, *row.residuals)):
        return "a value or residual that is negative or not finite"
    if not 0 <= row.converged <= row.k:
        return f"{row.converged} triplets of {row.k} are called converged"
    if any(low > high for high, low in itertools.pairwise(row.s)):
        return "values that do not descend"
    converged = sum(residual <= tol * row.s[0] for residual in row.residuals)
    # Fewer may count than meet it: what could not be shown complete does not. One at the edge may
    # fall on either side, since residuals were compared in the operator's dtype.
    if row.converged > converged + 1:
        return f"{converged} residuals meet the tolerance, the row says {row.converged}"
    return ""
