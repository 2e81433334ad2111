"""Whether a run is whole: every sample of its manifest at every depth, as values or as a reason."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass

from jvpsvd.errors import RunError
from jvpsvd.survey.rows import Row
from jvpsvd.survey.store import Store
from jvpsvd.survey.tally import Tally
from jvpsvd.survey.task import tasks


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
    found: Counter[tuple[str, str, str]] = Counter()
    unread: list[str] = []
    wrong: list[str] = []
    tally = Tally()
    for rows, lost in store.scan():
        unread += lost
        found.update((row.shard, row.key, row.layer) for row in rows)
        tally = tally.with_rows(rows)
        for row in rows:
            fault = _fault(row, store.identity.k, store.identity.tol)
            if fault:
                wrong.append(f"wrong: {row.shard} {row.key} {row.layer}: {fault}")
    try:
        samples = store.samples()
    except RunError as error:
        return Verdict(0, 0, 0, (f"no manifest: {error}", *unread))
    known = {task.id for task in tasks(store.identity, samples)}
    unread += [
        f"stray: {file.name} is no task of the manifest; remove it"
        for file in store.files()
        if file.stem not in known
    ]
    expected = {(s.shard, s.key, layer) for s in samples for layer in store.identity.layers}
    problems = unread + [f"missing: {' '.join(place)}" for place in sorted(expected - found.keys())]
    problems += [f"twice: {' '.join(place)}" for place, count in found.items() if count > 1]
    problems += [f"not in the manifest: {' '.join(p)}" for p in sorted(found.keys() - expected)]
    return Verdict(tally.values, tally.failures, tally.unconverged, (*problems, *wrong))


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
