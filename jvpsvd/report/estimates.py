"""Dimension estimates of every photo, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import dimensions
from jvpsvd.geometry.dimension import Dimensions
from jvpsvd.report.values import Array, DepthValues

ESTIMATES = ("count", "participation", "entropy", "gap")
"""Names of the estimates, in the order in which they are shown."""
TITLES = {
    "count": "count σ ≥ 1",
    "participation": "participation",
    "entropy": "entropy",
    "gap": "largest gap",
}
"""How a person reads them."""


@dataclass(frozen=True)
class Estimates:
    """The estimates of each photo at a depth; NaN where a spectrum is all 0."""

    values: dict[str, Array]
    """(P,) for each of `ESTIMATES`."""
    cut: Array
    """(P,) bool: all k values count, and there may be more."""
    bounded: Array
    """(P,) bool: participation and entropy are lower bounds, because k values hold not all energy.

    True as well where the energy is not known and k is below min(m, n).
    """

    def bounds(self, name: str) -> bool:
        """Whether the mean of an estimate only bounds the true one from below."""
        return name != "gap" and bool((self.cut if name == "count" else self.bounded).any())


def estimate(depth: DepthValues, floor: float) -> Estimates:
    """Return the estimates of all photos at a depth; see `jvpsvd.geometry.dimension`.

    Args:
        depth: The rows.
        floor: What values are good to, over σ₁: the tolerance of the run.

    Example: ``estimate(read_values(store).depths[-1], 1e-5).values["count"].mean()``.
    """
    photos, k = depth.s.shape
    whole = k >= min(depth.shape)
    values = {name: np.full(photos, np.nan) for name in ESTIMATES}
    cut = np.zeros(photos, dtype=bool)
    bounded = np.full(photos, not whole)
    usable = (depth.s[:, 0] > 0) if photos else np.zeros(0, dtype=bool)
    known = usable & (depth.fro2 > 0)
    for mask, given in ((known, True), (usable & ~known, False)):
        if not mask.any():
            continue
        s = depth.s[mask] if k > 1 else np.pad(depth.s[mask], ((0, 0), (0, 1)))
        found = _estimate(s, depth.fro2[mask] if given else None, floor)
        values["count"][mask] = found.count.numpy()
        values["participation"][mask] = found.participation.numpy()
        values["entropy"][mask] = found.entropy.numpy()
        values["gap"][mask] = np.nan if k == 1 else found.gap.numpy()
        cut[mask] = (found.count.numpy() == k) & (not whole)
        if found.energy is not None and k > 1:
            bounded[mask] = (found.energy.numpy() < 1 - 1e-6) & (not whole)
    return Estimates(values, cut, bounded)


def _estimate(s: Array, fro2: Array | None, floor: float) -> Dimensions:
    try:
        return dimensions(s, floor=floor, fro2=fro2)
    except ArgumentError:
        # A norm that cannot belong to the values says nothing of what they leave out.
        return dimensions(s, floor=floor)
