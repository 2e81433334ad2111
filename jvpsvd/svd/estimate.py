"""A number that is known between bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A number with the bounds between which it lies, and what these rest on.

    Attributes:
        value: The estimate; where only a bound is known, that bound.
        low: The number is at least this.
        high: The number is at most this; infinite where no bound is known.
        standard_error: Of what was sampled; 0 where nothing was.
        basis: What the bounds rest on, in words.

    >>> print(Estimate(3.0, 2.9, 3.1, basis="all 4 values and their residuals"))
    3, between 2.9 and 3.1: all 4 values and their residuals
    >>> float(Estimate(3.0, 3.0, math.inf))
    3.0
    """

    value: float
    low: float
    high: float
    standard_error: float = 0.0
    basis: str = ""

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        low, high = f"{self.low:.6g}", f"{self.high:.6g}"
        if low == high:
            number = low
        elif math.isinf(self.low) and math.isinf(self.high):
            number = "unknown"
        elif math.isinf(self.high):
            number = f"at least {low}"
        elif math.isinf(self.low):
            number = f"at most {high}"
        else:
            number = f"{self.value:.6g}, between {low} and {high}"
        error = f" ± {self.standard_error:.2g}" if self.standard_error else ""
        return f"{number}{error}{': ' if self.basis else ''}{self.basis}"
