"""Whether a run is whole: every sample of its manifest at every depth, as values or as a reason."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from jvpsvd.data import Sample
from jvpsvd.errors import RunError
from jvpsvd.survey.rows import Row
from jvpsvd.survey.store import Store
from jvpsvd.survey.tally import Tally
from jvpsvd.survey.task import places


@dataclass(frozen=True)
class Verdict:
    """What a run holds, measured against its manifest."""

    values: int
    """Rows with singular values."""
    failures: int
    """Rows with a reason instead."""
    unconverged: int
    """Triplets, over all rows with values, that missed the tolerance."""
    problems: tuple[str, ...]
    """What is missing or wrong, a line each; empty for a whole run."""


def verify(store: Store) -> Verdict:
    """Read everything back, file by file, and compare it with the manifest."""
    problems: list[str] = []
    samples: list[Sample] = []
    try:
        samples = store.samples()
    except RunError as error:
        problems.append(f"no manifest: {error}")
    listed = places(store.identity, samples)
    found: Counter[tuple[str, str, str]] = Counter()
    wrong: list[str] = []
    tally = Tally()
    for rows, unread in store.scan():
        problems += unread
        found.update((row.shard, row.key, row.layer) for row in rows)
        tally = tally.with_rows(rows)
        for row in rows:
            fault = _fault(row, store.identity.k, store.identity.tol)
            if fault:
                wrong.append(f"wrong: {row.shard} {row.key} {row.layer}: {fault}")
            fault = _vector_fault(store, row, listed)
            if fault:
                problems.append(f"{fault}: {row.shard} {row.key} {row.layer}")
    if not samples:
        return Verdict(0, 0, 0, tuple(problems))
    known = {task for task, _ in listed.values()}
    problems += [
        f"stray: {file.name} is no task of the manifest; remove it"
        for file in store.files()
        if file.stem not in known
    ]
    expected = {(s.shard, s.key, layer) for s in samples for layer in store.identity.layers}
    problems += [f"missing: {' '.join(place)}" for place in sorted(expected - found.keys())]
    problems += [f"twice: {' '.join(place)}" for place, count in found.items() if count > 1]
    problems += [f"not in the manifest: {' '.join(p)}" for p in sorted(found.keys() - expected)]
    return Verdict(tally.values, tally.failures, tally.unconverged, (*problems, *wrong))


def _vector_fault(store: Store, row: Row, listed: Mapping[tuple[str, str], tuple[str, int]]) -> str:
    """Return what is wrong with the vectors of a row, read back from the disk, or nothing."""
    identity = store.identity
    if not identity.vectors or row.status != "ok" or (row.shard, row.key) not in listed:
        return ""
    task, place = listed[row.shard, row.key]
    depth = next((depth for depth in store.depths if depth.name == row.layer), None)
    if depth is None:
        return ""  # the row itself is not in the manifest
    layers = identity.layers
    file = store.vectors(task, place * len(layers) + layers.index(row.layer))
    if not file.exists():
        return "no vectors"
    try:
        found = load_file(file)
    except (OSError, SafetensorError):
        return "unreadable vectors"
    n = math.prod(identity.photo_input.shape)
    expected = {"U": (depth.numel, row.k), "s": (row.k,), "Vh": (row.k, n)}
    if {name: tuple(tensor.shape) for name, tensor in found.items()} != expected:
        return "vectors of another shape"
    if not all(bool(torch.isfinite(tensor).all()) for tensor in found.values()):
        return "vectors that are not finite"
    same = torch.equal(found["s"].double(), torch.tensor(row.s, dtype=torch.float64))
    return "" if same else "vectors of other values"


def _fault(row: Row, k: int, tol: float) -> str:
    """Return what makes a row impossible, or nothing."""
    if row.status != "ok":
        return "" if row.message else "a failure without a reason"
    if not (len(row.s) == len(row.residuals) == row.k == k):
        return f"{len(row.s)} values and {len(row.residuals)} residuals for k = {k}"
    if not all(math.isfinite(x) and x >= 0 for x in (*row.s, *row.residuals)):
        return "a value or residual that is negative or not finite"
    if any(low > high for high, low in itertools.pairwise(row.s)):
        return "values that do not descend"
    converged = sum(residual <= tol * row.s[0] for residual in row.residuals)
    # Fewer may count than meet it: what could not be shown complete does not. One at the edge may
    # fall on either side, since residuals were compared in the operator's dtype.
    if row.converged > converged + 1:
        return f"{converged} residuals meet the tolerance, the row says {row.converged}"
    return ""
