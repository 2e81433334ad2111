"""Medians and ranges of repeated measurements, and exponents of growth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Spread:
    """The median and the range of some rounds of one measurement."""

    median: float
    least: float
    most: float
    rounds: int

    @classmethod
    def of(cls, measured: Sequence[float]) -> Spread:
        """Return the spread of at least one number."""
        return cls(statistics.median(measured), min(measured), max(measured), len(measured))

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Spread:
        """Return the spread that `to_json` stored."""
        return cls(**stored)

    def to_json(self) -> dict[str, Any]:
        """Return the spread as JSON stores it."""
        return asdict(self)

    def __str__(self) -> str:
        if self.rounds == 1:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.least:.3g} to {self.most:.3g})"


@dataclass(frozen=True)
class Power:
    """y ≈ factor · x^exponent, fitted in logarithms; at worst it is off by a factor `scatter`."""

    exponent: float
    factor: float
    scatter: float

    def __str__(self) -> str:
        return f"x^{self.exponent:.2f} (within a factor {self.scatter:.2f})"


def fit_power(xs: Sequence[float], ys: Sequence[float]) -> Power | None:
    """Return the least-squares power law through positive points; None for fewer than two x.

    >>> fit_power([1.0, 10.0, 100.0], [3.0, 300.0, 30000.0])
    Power(exponent=2.0, factor=3.0, scatter=1.0)
    """
    points = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0]
    if len({x for x, _ in points}) < 2:
        return None
    line = statistics.linear_regression(*zip(*points, strict=True))
    worst = max(abs(y - line.intercept - line.slope * x) for x, y in points)
    return Power(
        round(line.slope, 9), round(math.exp(line.intercept), 9), round(math.exp(worst), 9)
    )
