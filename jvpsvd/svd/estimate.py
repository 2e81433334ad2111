"""Numbers that are known between bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from jvpsvd.arguments import proper_fraction, shown
from jvpsvd.errors import ArgumentError
from jvpsvd.records import ComparedByFields
from jvpsvd.text_table import significant

Array = np.ndarray[tuple[int], np.dtype[np.float64]]
_Rows = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

# An estimate prints as a range alone where the range is wider than this share of the value and
# than so many standard errors: a choice.
_RESOLVED, _ERRORS = 0.1, 4.0
_DIGITS = 6
_LEAST_ERROR = 1e-6  # smaller relative standard errors are not printed


@dataclass(frozen=True)
class Estimate:
    """A number with the bounds between which it lies, and what these rest on.

    Attributes:
        value: The estimate; where only a bound is known, that bound.
        low: The number is at least this, apart from sampling.
        high: The number is at most this, apart from sampling; infinite where no bound is known.
        standard_error: Of what was sampled; 0 where nothing was.
        basis: What the bounds rest on, in words.

    >>> print(Estimate(3.0, 2.9, 3.1, basis="all 4 values and their residuals"))
    3, between 2.9 and 3.1: all 4 values and their residuals
    >>> print(Estimate(271.2, 264.0, 278.0, 3.0))
    271 ± 3 (264 to 278)
    >>> print(Estimate(140.0, 80.0, 200.0, 3.0))
    between 80 and 200 (± 3)
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

    @property
    def resolved(self) -> bool:
        """Whether the bounds are near enough for the value to mean something."""
        width = self.high - self.low
        return math.isfinite(width + self.standard_error) and width <= max(
            _RESOLVED * abs(self.value), _ERRORS * self.standard_error
        )

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the bounds, widened by what sampling may be off at this confidence.

        Raises:
            ArgumentError: If the confidence does not lie between 0 and 1.

        >>> low, high = Estimate(10.0, 9.0, 11.0, 1.0).interval()
        >>> round(low, 2), round(high, 2)
        (7.04, 12.96)
        """
        confidence = proper_fraction("confidence", confidence)
        off = NormalDist().inv_cdf((1 + confidence) / 2) * self.standard_error
        return self.low - off, self.high + off

    def __str__(self) -> str:
        return f"{self.in_words()}{': ' if self.basis else ''}{self.basis}"

    def in_words(self) -> str:
        """Return the number without what it rests on."""
        error = self.standard_error
        if _LEAST_ERROR * abs(self.value) < error < math.inf:
            places = 1 - math.floor(math.log10(error)) - (error >= 2)
            size = math.floor(math.log10(abs(self.value))) if self.value else 0
            places = max(0, min(places, _DIGITS - 1 - size))
            value, low, high = (f"{x:.{places}f}" for x in (self.value, self.low, self.high))
            error_in_words = f"± {error:.{places}f}"
            if math.isinf(self.low) or math.isinf(self.high) or low == high:
                return f"{self._bounds(value, low, high)} {error_in_words}"
            if not self.resolved:
                return f"between {low} and {high} ({error_in_words})"
            return f"{value} {error_in_words} ({low} to {high})"
        words = self._bounds(*(f"{x:.6g}" for x in (self.value, self.low, self.high)))
        known = math.isfinite(error) or math.isinf(self.low) or math.isinf(self.high)
        return words if known else f"{words} (± unknown)"

    def in_a_cell(self) -> str:
        """Return the number as tables have it, in few digits; its bounds alone where they are wide.

        >>> Estimate(271.2, 264.0, 278.0, 3.0).in_a_cell()
        '271 ± 3 (264 to 278)'
        >>> Estimate(140.0, 80.0, 200.0, 3.0).in_a_cell()
        '80 to 200 (± 3)'
        >>> Estimate(99.66667, 99.66667, 99.66667).in_a_cell()
        '99.67'
        """
        if self.standard_error:
            return self.in_words().removeprefix("between ").replace(" and ", " to ")
        value, low, high = map(significant, (self.value, self.low, self.high))
        if low == high:
            return value
        return f"{value} ({low} to {high})" if self.resolved else f"{low} to {high}"

    def _bounds(self, value: str, low: str, high: str) -> str:
        if math.isinf(self.low) and math.isinf(self.high):
            return low if low == high else "unknown"
        if math.isinf(self.high):
            return f"at least {low}"
        if math.isinf(self.low):
            return f"at most {high}"
        if low == high:
            return low
        if not self.resolved:
            return f"between {low} and {high}"
        return f"{value}, between {low} and {high}"


@dataclass(frozen=True, eq=False)
class Curve(ComparedByFields):
    """A function known between bounds, at the points of a grid."""

    grid: Array
    """Points."""
    value: Array
    """Estimate at each point."""
    low: Array
    """Lower bound, apart from sampling."""
    high: Array
    """Upper bound, apart from sampling."""
    standard_error: Array
    """Of what was sampled."""

    def __len__(self) -> int:
        return len(self.grid)

    def __iter__(self) -> Iterator[Estimate]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Estimate:
        """Return the estimate at one point of the grid.

        Raises:
            ArgumentError: If there is no such point.
        """
        whole = isinstance(index, int | np.integer)
        if not whole or not -len(self) <= index < len(self):
            raise ArgumentError(
                f"point {shown(index)} is none of the {len(self)} of the curve; give one index, or "
                "slice its arrays, as curve.value[:10]"
            )
        columns = (self.value, self.low, self.high, self.standard_error)
        value, low, high, error = (float(column[index]) for column in columns)
        return Estimate(value, low, high, error)


def average_inputs(numbers: _Rows, *, own_starts: bool) -> _Rows:
    """Return the means (4, …) over inputs of (4, inputs, …) values, bounds and standard errors.

    Errors e of N inputs, each solved from a random start of its own, are independent: that of the
    mean is √(Σ e²) / N. Where all share one start, what it samples may be off in the same direction
    at all of them: the error of the mean is the mean of theirs. By the triangle inequality it is no
    larger, whatever the correlation.

    Args:
        numbers: Those of each input.
        own_starts: Whether each input was solved from a start of its own.
    """
    rows = np.ascontiguousarray(numbers)  # summed in one order, always
    means: _Rows = rows.mean(axis=1)
    if own_starts:
        means[3] = np.sqrt(np.square(rows[3]).mean(axis=0) / rows.shape[1])
    return means


def mean_estimate(numbers: _Rows, *, own_starts: bool) -> Estimate:
    """Return the mean over these inputs of (4, inputs) values, bounds and standard errors.

    >>> numbers = np.array([[9.0, 11.0], [8.5, 10.5], [9.5, 11.5], [0.3, 0.4]])
    >>> print(mean_estimate(numbers, own_starts=True))
    10.00 ± 0.25 (9.50 to 10.50)
    >>> print(mean_estimate(numbers, own_starts=False))
    10.00 ± 0.35 (9.50 to 10.50)
    """
    value, low, high, error = map(float, average_inputs(numbers, own_starts=own_starts))
    return Estimate(value, low, high, error)


def known_in_words(known: int, size: int) -> str:
    """Return how many of all values are known.

    >>> known_in_words(1, 3), known_in_words(0, 3), known_in_words(3, 3), known_in_words(1, 1)
    ('1 of 3 values is known', '0 of 3 values are known', 'all 3 values are known',
     'the only value is known')
    """
    if known == size:
        return "the only value is known" if size == 1 else f"all {size} values are known"
    return f"{known} of {size} values {'is' if known == 1 else 'are'} known"
