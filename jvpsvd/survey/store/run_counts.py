"""Counts over the rows of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jvpsvd.survey.store.rows import Row
from jvpsvd.text_table import count_noun


@dataclass(frozen=True)
class RunCounts:
    """Counts and extremes over rows.

    >>> RunCounts().with_rows([Row("s", "k", 0, None, "output", "bad-photo", "cut short", 5)])
    RunCounts(values=0, failures=1, unconverged=0, worst_residual=0.0, energy=0.0, shares=0,
          below_residual=0, failed=1)
    """

    values: int = 0
    """Rows with singular values."""
    failures: int = 0
    """Rows with a reason instead."""
    unconverged: int = 0
    """Triplets that are not certified."""
    worst_residual: float = 0.0
    """Largest residual, over σ₁ of its row."""
    energy: float = 0.0
    """Sum, over rows, of the share of ‖J‖²_F that the k values hold."""
    shares: int = 0
    """Rows whose share is known."""
    below_residual: int = 0
    """Values that are smaller than their own residual."""
    failed: int = 0
    """Photos that have a reason instead of values at some depth."""

    @property
    def mean_energy(self) -> float | None:
        """Mean share of the energy; None where no row has one."""
        return self.energy / self.shares if self.shares else None

    def with_rows(self, rows: Iterable[Row]) -> RunCounts:
        """Return the counts with further rows counted, among them all depths of each photo."""
        solved, failures, unconverged, worst, energy, shares = 0, 0, 0, self.worst_residual, 0.0, 0
        below = 0
        failed: set[tuple[str, str]] = set()
        for row in rows:
            if row.status != "ok":
                failures += 1
                failed.add((row.shard, row.key))
                continue
            solved += 1
            unconverged += row.k - row.converged
            below += sum(r > s for r, s in zip(row.residuals, row.s, strict=False))
            if row.s and row.s[0] > 0:
                worst = max(worst, max(row.residuals, default=0.0) / row.s[0])
            if row.fro2:
                energy += float(np.square(row.s).sum()) / row.fro2
                shares += 1
        return RunCounts(
            self.values + solved,
            self.failures + failures,
            self.unconverged + unconverged,
            worst,
            self.energy + energy,
            self.shares + shares,
            self.below_residual + below,
            self.failed + len(failed),
        )

    def __str__(self) -> str:
        energy = "" if self.mean_energy is None else f", energy {_in_percent(self.mean_energy)}"
        missed, noise = "", ""
        if self.unconverged:
            missed = f", {count_noun(self.unconverged, 'triplet')} not certified"
        if self.below_residual:
            noise = f", {count_noun(self.below_residual, 'value')} below the residual"
        failures = count_noun(self.failed, "failure")
        if not self.values:
            return failures
        return f"{failures}{energy}, worst residual {self.worst_residual:.0e} σ1{missed}{noise}"


def _in_percent(share: float) -> str:
    """Return a share in words; one of an estimate of ‖J‖²_F may be over 1."""
    return f"{100 * share:.0f} %" if share < 1.005 else "about 100 %"
