"""How far the numbers of a run can be trusted: certified, missed, failed and missing, counted."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from jvpsvd.report.values import RunValues


@dataclass(frozen=True)
class DepthHealth:
    """Photos at one depth, each counted once."""

    layer: str
    certified: int
    """All triplets are certified, and vectors were orthonormal."""
    short: int
    """With values, but some triplets are not certified."""
    failed: int
    missing: int


@dataclass(frozen=True)
class Reason:
    """One kind of failure."""

    status: str
    rows: int
    photos: int
    example: str
    """The message of the first."""


@dataclass(frozen=True)
class Health:
    """The counts of a run."""

    photos: int
    """Photos in the manifest."""
    depths: tuple[DepthHealth, ...]
    triplets: int
    """Triplets of rows with values."""
    unconverged: int
    """Triplets that are not certified."""
    below_residual: int
    """Values that are smaller than their own residual."""
    reasons: tuple[Reason, ...]
    """Kinds of failure, the most frequent first."""

    @property
    def certified(self) -> int:
        """Rows that are certified in full."""
        return sum(depth.certified for depth in self.depths)

    @property
    def short(self) -> int:
        """Rows with values and triplets that are not certified."""
        return sum(depth.short for depth in self.depths)

    @property
    def failed(self) -> int:
        """Rows with a reason instead of values."""
        return sum(depth.failed for depth in self.depths)

    @property
    def missing(self) -> int:
        """Rows that are not there."""
        return sum(depth.missing for depth in self.depths)

    @property
    def rows(self) -> int:
        """Photos times depths."""
        return self.photos * len(self.depths)


def count_rows(run: RunValues) -> Health:
    """Count the rows of a run against its manifest.

    Example: ``count_rows(read_values(store)).missing``.
    """
    failed: dict[str, int] = defaultdict(int)
    missing: dict[str, int] = defaultdict(int)
    kinds: dict[str, list[int]] = defaultdict(list)
    examples: dict[str, str] = {}
    for failure in run.failures:
        failed[failure.layer] += 1
        kinds[failure.status].append(failure.photo)
        examples.setdefault(failure.status, failure.message)
    for _, layer in run.missing:
        missing[layer] += 1
    depths = []
    for depth in run.depths:
        certified = int((depth.converged >= depth.s.shape[1]).sum())
        short = len(depth.photo) - certified
        name = depth.layer
        depths.append(DepthHealth(name, certified, short, failed[name], missing[name]))
    reasons = [
        Reason(status, len(photos), len(set(photos)), examples[status])
        for status, photos in kinds.items()
    ]
    return Health(
        photos=len(run.samples),
        depths=tuple(depths),
        triplets=sum(depth.s.size for depth in run.depths),
        unconverged=sum(int((depth.s.shape[1] - depth.converged).sum()) for depth in run.depths),
        below_residual=sum(int(depth.below_residual.sum()) for depth in run.depths),
        reasons=tuple(sorted(reasons, key=lambda one: (-one.rows, one.status))),
    )
