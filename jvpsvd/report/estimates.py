"""Dimension estimates of every photo, as plain arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from jvpsvd.geometry import dimensions
from jvpsvd.geometry.dimension import LEAST_ENERGY
from jvpsvd.report.values import Array, DepthValues
from jvpsvd.survey.store.whole_spectrum import counts_at
from jvpsvd.svd.estimate import Estimate, mean_estimate
from jvpsvd.text_table import significant

ESTIMATES = ("count", "participation", "entropy", "gap")
"""Names of the estimates, in the order in which they are shown."""
NOT_KNOWN = Estimate(math.nan, math.nan, math.nan)
"""The estimate of no photos."""
BOUNDED = ESTIMATES[:3]
"""Those of the whole spectrum, with bounds and standard errors."""


def titles(threshold: float) -> dict[str, str]:
    """Return how a person reads the names of the estimates.

    >>> titles(1.0)["count"]
    'count σ ≥ 1'
    """
    return {
        "count": f"count σ ≥ {threshold:g}",
        "participation": "participation",
        "entropy": "entropy",
        "gap": "largest gap",
    }


@dataclass(frozen=True)
class Estimates:
    """The estimates of each photo at a depth.

    Participation, entropy and gap are NaN where a spectrum is all 0; its count is 0.
    """

    values: dict[str, Array]
    """(P,) for each of `ESTIMATES`."""
    ranges: dict[str, Array]
    """(3, P) low, high and standard error, for each of `BOUNDED`; high is infinite where only a
    lower bound is known."""
    cut: Array
    """(P,) bool: all k values count, and nothing bounds how many more do."""
    bounded: Array
    """(P,) bool: participation and entropy are lower bounds, because k values hold not all energy,
    and the row keeps no whole spectrum.

    True as well where the energy is not known and k is below min(m, n).
    """
    own_starts: bool = False
    """Whether each photo was solved from a random start of its own."""

    def bounds(self, name: str) -> bool:
        """Whether the mean of an estimate only bounds the true one from below."""
        return name != "gap" and bool((self.cut if name == "count" else self.bounded).any())

    def mean(self, name: str) -> Estimate:
        """Return the mean over the photos that have the estimate; NaN if none has."""
        value = self.values[name]
        known = np.isfinite(value)
        if not known.any():
            return NOT_KNOWN
        others = self.ranges[name] if name in self.ranges else np.stack([value, value, 0 * value])
        return mean_estimate(np.stack([value, *others])[:, known], own_starts=self.own_starts)


def outer_range(found: Estimate) -> tuple[float, float]:
    """Return the bounds with two standard errors.

    >>> outer_range(Estimate(10.0, 9.0, 11.0, 1.0))
    (7.0, 13.0)
    """
    return found.low - 2 * found.standard_error, found.high + 2 * found.standard_error


def in_words(found: Estimate, *, at_least: bool) -> str:
    """Return a number with its error and bounds, or as a lower bound.

    >>> in_words(Estimate(50.0, 50.0, 1000.0), at_least=True)
    '≥ 50'
    """
    if math.isnan(found.value):
        return "—"
    return f"≥ {significant(found.value)}" if at_least else found.in_a_cell()


def estimate(depth: DepthValues, floor: float, threshold: float = 1.0) -> Estimates:
    """Return the estimates of all photos at a depth; see `jvpsvd.geometry.dimension`.

    Args:
        depth: The rows.
        floor: What values are good to, over σ₁: the tolerance of the run.
        threshold: What a value must reach to be counted.

    Example: ``estimate(read_values(store).depths[-1], 1e-5).values["count"].mean()``.
    """
    photos, k = depth.s.shape
    whole = k >= min(depth.shape)
    values = {name: np.full(photos, np.nan) for name in ESTIMATES}
    bounded = np.full(photos, not whole)
    usable = (depth.s[:, 0] > 0) if photos else np.zeros(0, dtype=bool)
    known = usable & (depth.fro2 > 0)
    known[known] = _plausible(depth.s[known], depth.fro2[known])
    for mask, given in ((known, True), (usable & ~known, False)):
        if not mask.any():
            continue
        s = depth.s[mask] if k > 1 else np.pad(depth.s[mask], ((0, 0), (0, 1)))
        found = dimensions(s, floor=floor, fro2=depth.fro2[mask] if given else None)
        values["participation"][mask] = found.participation.numpy()
        values["entropy"][mask] = found.entropy.numpy()
        values["gap"][mask] = np.nan if k == 1 else found.gap.numpy()
        if found.energy is not None and k > 1:
            bounded[mask] = (found.energy.numpy() < 1 - 1e-6) & (not whole)
    counts, cut = count(depth, threshold)
    values["count"] = counts[0]
    ranges = {"count": counts[1:]}
    for name, kept in (("participation", depth.participation), ("entropy", depth.entropy)):
        found_whole = kept.T if name == "participation" else _exponential(kept.T)
        stored = usable & np.isfinite(found_whole[0])
        values[name][stored] = found_whole[0][stored]
        if name == "participation":
            bounded[stored] = _only_bounded(found_whole)[stored] & (not whole)
        high = np.where(bounded, np.inf, values[name])
        alone = np.stack([values[name], high, np.zeros(photos)])
        ranges[name] = np.where(stored & ~bounded, found_whole[1:], alone)
    return Estimates(values, ranges, cut, bounded, depth.own_starts)


def count(depth: DepthValues, threshold: float) -> tuple[Array, Array]:
    """Return the counts of values ≥ threshold, and which are lower bounds alone.

    Returns:
        (4, P) value, low, high and standard error; high is infinite for a lower bound alone. And
        (P,) bool.
    """
    found = counts_at(
        threshold, depth.counts, depth.s, depth.residuals, depth.converged, depth.size
    )
    cut = _only_bounded(found) & (found[2] == depth.size)
    found[2, cut] = np.inf
    return found, cut


def _only_bounded(numbers: Array) -> Array:
    """Return which of (4, P) values are their own lower bound, with nothing sampled above it."""
    value, low, high, error = numbers
    bounded: Array = (value == low) & (high > low * (1 + 1e-6)) & (error == 0)
    return bounded


def _exponential(entropy: Array) -> Array:
    """Return exp of (4, P) entropies: value, low, high and standard error."""
    value, low, high = np.exp(entropy[:3])
    return np.stack([value, low, high, value * entropy[3]])


def _plausible(s: Array, fro2: Array) -> Array:
    """Return where a norm can belong to the values; others say nothing of what they leave out."""
    top = s[:, 0]
    with np.errstate(over="ignore"):  # infinite is not plausible
        whole = fro2 / top / top
    held = np.square(s / top[:, None]).sum(axis=1)
    plausible: Array = np.isfinite(whole) & (whole >= LEAST_ENERGY * held)
    return plausible
