"""Quantiles of a whole spectrum: its counts, read off on the other axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist
from typing import Protocol

from torch import Tensor

from jvpsvd.arguments import proper_fraction
from jvpsvd.svd.estimate import Curve, Estimate
from jvpsvd.svd.sampled_values import SampledValues

# Counts that differ from a whole number by less than this are that number.
_WHOLE = 1e-6
# Bisection ends at this relative width, below what counts tell apart.
_WIDTH = 1e-6
# A threshold near a node is moved by this share of it at least, on both sides, by counts: rounding
# scatters copies of a value.
EQUAL = 1e-5
# No threshold beyond this multiple of the largest node is tried.
_FARTHEST = 1e12


class _Counted(Protocol):
    """A spectrum whose values are counted: a `Spectrum`."""

    @property
    def values(self) -> Tensor: ...
    @property
    def errors(self) -> Tensor: ...
    @property
    def rest(self) -> SampledValues | None: ...
    @property
    def size(self) -> int: ...
    @property
    def rounding(self) -> float: ...
    @property
    def top(self) -> float: ...
    @property
    def basis(self) -> str: ...
    def counts(self, thresholds: Sequence[float]) -> Curve: ...


@dataclass(frozen=True, repr=False)
class Quantile(Estimate):
    """An estimate whose interval is read off that of the counts, which is wide where few lie."""

    ends: Callable[[float], tuple[float, float]] | None = field(default=None, compare=False)
    """Returns the bounds, widened by so many standard errors of the counts."""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the thresholds at which intervals of the counts begin and end.

        Raises:
            ArgumentError: If the confidence does not lie between 0 and 1.
        """
        confidence = proper_fraction("confidence", confidence)
        if self.ends is None:
            return super().interval(confidence)
        low, high = self.ends(NormalDist().inv_cdf((1 + confidence) / 2))
        return min(low, self.low), max(high, self.high)


def find_quantile(spectrum: _Counted, q: float) -> Estimate:
    """Return the σ below which the share q of all singular values lies, 0 < q < 1.

    >>> import torch, jvpsvd
    >>> J = torch.diag(torch.linspace(2, 0, 400))
    >>> low, high = find_quantile(jvpsvd.spectral_density(J), 0.5).interval(0.999)
    >>> low <= 1 <= high
    True
    """
    wanted = (1 - q) * spectrum.size
    if abs(wanted - round(wanted)) < 1e-9 * spectrum.size:  # (1 - 0.9) · 200 is below 20
        wanted = float(round(wanted))
    if spectrum.rest is None and len(spectrum.values) == spectrum.size:
        index = min(spectrum.size - 1, int(wanted))
        value, error = float(spectrum.values[index]), float(spectrum.errors[index])
        return Estimate(value, max(0.0, value - error), value + error, basis=spectrum.basis)
    high = _bracket(spectrum, wanted + _WHOLE, 0.0, 0.0)[1]
    value = _at_a_value(spectrum, high)
    ends = partial(_ends, spectrum, wanted)
    low, high = ends(0.0)
    low, high = min(low, value), max(high, value)
    down, up = ends(1.0)
    error = max(low - down, up - high) if math.isfinite(up) else math.inf
    if math.isfinite(high) and error <= 4 * EQUAL * high:
        error = 0.0
    if math.isinf(value):  # nothing bounds it from above
        value, error = low, 0.0
    return Quantile(value, low, high, error, spectrum.basis, ends)


def _ends(spectrum: _Counted, wanted: float, errors: float) -> tuple[float, float]:
    """Return the last threshold with surely more values, and the first with surely no more.

    Args:
        spectrum: The spectrum.
        wanted: How many values are larger than the quantile.
        errors: How many standard errors counts may be off.
    """
    low = _bracket(spectrum, wanted + _WHOLE, -1.0, -errors)[0]
    return low, _bracket(spectrum, wanted - _WHOLE, 1.0, errors)[1]


def _bracket(spectrum: _Counted, wanted: float, side: float, errors: float) -> tuple[float, float]:
    """Return thresholds of which the first has more than `wanted` values, the second no more.

    Args:
        spectrum: The spectrum.
        wanted: A number of values.
        side: Whether counts are taken at their values (0), lower (-1) or upper bounds (1).
        errors: How many standard errors are added to them.
    """

    def more(threshold: float) -> bool:
        found = spectrum.counts([threshold])[0]
        count = {0.0: found.value, -1.0: found.low, 1.0: found.high}[side]
        return count + errors * found.standard_error > wanted

    top = spectrum.top
    least = max(spectrum.rounding, 1e-12 * top)
    low, high = 0.0, max(least, top * (1 + 3 * EQUAL))
    while more(high):  # values may lie above all nodes
        if high > _FARTHEST * top:
            return high, math.inf
        low, high = high, 2 * high
    while high - low > _WIDTH * high and high > least:
        middle = math.sqrt(low * high) if low else max(least, high / 8)
        if more(middle):
            low = middle
        else:
            high = middle
    return low, high


def _at_a_value(spectrum: _Counted, threshold: float) -> float:
    """Return the known value or node that equals a threshold up to rounding, or that."""
    off = 2 * max(EQUAL * threshold, spectrum.rounding)
    nodes = spectrum.rest.rule.nodes.reshape(-1) if spectrum.rest else spectrum.values
    for values in (spectrum.values, nodes):
        if len(values):
            nearest = float(values[(values - threshold).abs().argmin()])
            if abs(nearest - threshold) <= off:
                return nearest
    return threshold
