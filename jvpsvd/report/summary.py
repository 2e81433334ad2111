"""Means over the photos of a run, depth by depth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from jvpsvd.errors import RunError
from jvpsvd.report.estimates import NOT_KNOWN, count
from jvpsvd.report.values import Array, DepthValues, RunValues, mean_of_known, read_values
from jvpsvd.survey import Store
from jvpsvd.survey.store.whole_spectrum import THRESHOLDS
from jvpsvd.svd.estimate import Curve, Estimate, average_inputs, mean_estimate

WIDE = 4
"""From so many times k on, indices are drawn on a logarithmic axis."""
_FULL = 0.995  # a count of this share of the largest one rises no more, for the eye


@dataclass(frozen=True)
class DepthSummary:
    """All photos with values at one depth."""

    layer: str
    shape: tuple[int, int]
    """(m, n) of the Jacobian."""
    s: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    """(photos, k) singular values, descending along rows."""
    worst_residual: float
    """Largest residual over photos, relative to σ₁ of its photo."""
    defined_to: float
    """How well the Jacobians themselves are defined, over σ₁: the worst photo; NaN if unknown."""
    unconverged: int
    """Triplets, over photos, that are not certified."""
    products: float
    """Forward and reverse products, mean over photos."""
    energy: float
    """Share of ‖J‖²_F that the k values hold, mean over photos."""
    seconds: float
    """Wall time, mean over photos."""
    failed: int
    """Photos without values."""
    below_residual: int = 0
    """Values, over photos, that are smaller than their own residual."""
    threshold: float = 1.0
    """What a value must reach to be counted."""
    count: Estimate = NOT_KNOWN
    """Number of all values ≥ threshold, mean over photos (Mototake & Ikegami, section 6)."""
    count_is_cut: bool = False
    """Whether the count only bounds the true one from below: all k values of a photo are ≥
    threshold, and its row, of an older version, says nothing of the others."""
    counts: Curve | None = None
    """Numbers of values ≥ each of `THRESHOLDS`, mean over the photos that have them; None without
    any."""

    @property
    def photos(self) -> int:
        """Photos with values."""
        return self.s.shape[0]

    @property
    def dimension(self) -> float:
        """The value of `count`."""
        return float(self.count)

    @property
    def rest(self) -> Curve | None:
        """The part of `counts` below the k values, as far as it rises; None where nothing is."""
        return None if self.counts is None else rest_of(self.counts, self.s)


def summarize(store: Store, threshold: float = 1.0) -> list[DepthSummary]:
    """Return one summary per depth of a run, in the order of the network.

    Args:
        store: The run.
        threshold: What a value must reach to be counted.

    Raises:
        RunError: If rows cannot be read or do not belong to the spec.
    """
    run = read_values(store)
    if run.unreadable:
        raise RunError(run.unreadable[0])
    return summaries_of(run, threshold)


def summaries_of(run: RunValues, threshold: float = 1.0) -> list[DepthSummary]:
    """Return one summary per depth of rows that are already read.

    Example: ``summaries_of(read_values(store))[-1].dimension``.
    """
    failed = Counter(failure.layer for failure in run.failures)
    return [
        DepthSummary(
            layer=depth.layer,
            shape=depth.shape,
            s=depth.s,
            worst_residual=float(depth.relative[depth.relative >= 0].max(initial=0.0)),
            defined_to=float(np.fmax.reduce(depth.defined_to, initial=np.nan)),
            unconverged=int((depth.s.shape[1] - depth.converged).sum()),
            products=mean_of_known(depth.products),
            energy=mean_of_known(depth.energy),
            seconds=mean_of_known(depth.seconds),
            failed=failed[depth.layer],
            below_residual=int(depth.below_residual.sum()),
            threshold=threshold,
            count=mean_estimate(counts, own_starts=depth.own_starts)
            if len(depth.photo)
            else NOT_KNOWN,
            count_is_cut=bool(cut.any()),
            counts=mean_counts(depth),
        )
        for depth in run.depths
        for counts, cut in [count(depth, threshold)]
    ]


def mean_counts(depth: DepthValues, of: Array | None = None) -> Curve | None:
    """Return the mean of the counts of a depth over photos; None where no row keeps any.

    Args:
        depth: The rows.
        of: (P,) bool, which photos; None: all.
    """
    stored = np.isfinite(depth.counts[:, 0, 0])
    counts = depth.counts[stored if of is None else stored & of]
    if not len(counts):
        return None
    means = average_inputs(counts.swapaxes(0, 1), own_starts=depth.own_starts)
    return Curve(THRESHOLDS, *means)


def outer_bounds(curve: Curve) -> tuple[Array, Array]:
    """Return the bounds of a curve with two standard errors."""
    return curve.low - 2 * curve.standard_error, curve.high + 2 * curve.standard_error


def rest_of(counts: Curve, s: Array) -> Curve | None:
    """Return the part of mean counts below the mean of the last of k values, as far as it rises.

    Args:
        counts: Means over photos.
        s: (photos, k) values.
    """
    below = (counts.grid < s[:, -1].mean()) & (counts.value > s.shape[1])
    if not below.any():
        return None
    flat = below & (counts.value >= _FULL * counts.value.max())
    first = int(np.flatnonzero(flat)[-1]) if flat.any() else int(np.flatnonzero(below)[0])
    keep = np.flatnonzero(below & (np.arange(len(counts)) >= first))
    columns = (counts.grid, counts.value, counts.low, counts.high, counts.standard_error)
    return Curve(*(column[keep] for column in columns))
