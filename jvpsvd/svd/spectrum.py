"""All singular values of an operator: those that are known, and estimates for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import ascending_numbers, proper_fraction, shown, threshold_number
from jvpsvd.errors import ArgumentError
from jvpsvd.records import ComparedByFields
from jvpsvd.svd.estimate import Array, Curve, Estimate, known_in_words
from jvpsvd.svd.quantile import EQUAL, find_quantile
from jvpsvd.svd.sampled_values import SampledValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_Function = Callable[[Tensor], Tensor]

# A threshold below this many times the error by rounding is moved by it on both sides.
NEAR_ROUNDING = 1000.0
# Counts whose standard error is below this are whole numbers up to rounding.
_CERTAIN = 0.05
# Unknown values lie between 0 and the last known one; f is looked at there at so many points.
_POINTS = 513


@dataclass(frozen=True, eq=False, repr=False)
class Spectrum(ComparedByFields):
    """All p = min(m, n) singular values: the leading ones, and a random sample of the rest.

    Every number is an `Estimate`. Its `low` and `high` bound what the sample leaves open between
    the nodes of its quadrature rule; its `standard_error` says what another sample would change.
    More products narrow the first, more random vectors the second. Where all values are known, a
    number is exact up to the residuals.

    Attributes:
        size: p, the number of values.
        values: (j,) leading values that are known one by one, descending, float64.
        errors: (j,) their residuals.
        above: How many of them lie above the sampled rest.
        rest: The other p − above values; None where nothing is known of them, or nothing is left.
        rounding: Error of small values by rounding.
        basis: What the estimates rest on, in words.

    >>> import jvpsvd
    >>> spectrum = jvpsvd.svds(torch.diag(torch.arange(0.5, 8.0)), 3).spectrum
    >>> print(spectrum.count(2.0))
    6: all 8 values are known
    >>> print(spectrum)  # doctest: +ELLIPSIS
    8 singular values: all 8 values are known
    σ ≥ 1: 7
    participation ratio: 4.46..., between ...
    effective rank: 5.2..., between ...
    """

    size: int
    values: Tensor
    errors: Tensor
    above: int
    rest: SampledValues | None
    rounding: float
    basis: str

    def count(self, threshold: float = 1.0) -> Estimate:
        """Return the number of singular values ≥ threshold (Mototake & Ikegami, section 6).

        Values that equal the threshold up to rounding are counted, as the ones of an identity are
        at threshold 1; `low` leaves them out.

        Raises:
            ArgumentError: If the threshold is no number ≥ 0.

        >>> import jvpsvd
        >>> A = torch.diag(torch.linspace(0, 2, 400))
        >>> estimate = jvpsvd.svds(A, 20, method="golub-kahan").spectrum.count(1.0)
        >>> low, high = estimate.interval(0.999)
        >>> low <= 200 <= high
        True
        """
        threshold = threshold_number("threshold", threshold, "counts([…])")
        if threshold == 0:
            return Estimate(self.size, self.size, self.size, basis="no singular value is negative")
        found = self.counts([threshold])[0]
        value, low, high = (round(x) for x in (found.value, found.low, found.high))
        if threshold >= self._exact_above:
            basis = f"{known_in_words(len(self.values), self.size)}, the last below it"
            return Estimate(value, low, high, basis=self.basis if self.rest is None else basis)
        if found.standard_error < _CERTAIN:  # nothing but rounding is left between whole numbers
            ends = (found.value, found.low, found.high)
            near = [float(round(x)) if abs(x - round(x)) < _CERTAIN else x for x in ends]
            found = Estimate(near[0], near[1], near[2])
        return self._estimate(found)

    def counts(self, thresholds: Sequence[float] | Array | Tensor) -> Curve:
        """Return the numbers of singular values ≥ each threshold, in ascending order of these.

        Raises:
            ArgumentError: If thresholds are not ascending finite numbers ≥ 0.
        """
        return self._counts(ascending_numbers("thresholds", thresholds))

    def _counts(self, grid: Array) -> Curve:
        found = np.array([self._known_count(float(t)) for t in grid], dtype=np.float64)
        low, high = found[:, 0].copy(), found[:, 1].copy()
        value, error = low.copy(), np.zeros(len(grid))
        exact = self._exact_above
        open_ = grid < exact if exact > 0 else np.zeros(len(grid), dtype=bool)
        # Where a threshold falls into the errors of known values, these decide.
        settled = ~open_
        value[settled] = [int((self.values + self.rounding >= t).sum()) for t in grid[settled]]
        if open_.any():
            sampled = self._sampled_counts(torch.tensor(grid[open_]))
            for whole, part in zip((value, low, high, error), sampled, strict=True):
                whole[open_] = part
        for whole, all_of_them in ((value, self.size), (low, self.size), (error, 0)):
            whole[grid == 0] = all_of_them  # no singular value is negative
        return Curve(grid, value, low, high, error)

    def cdf(self, grid: Sequence[float] | Array | Tensor) -> Curve:
        """Return the share of singular values below each point of an ascending grid.

        Raises:
            ArgumentError: If the grid is not ascending finite numbers ≥ 0.
        """
        counts, p = self._counts(ascending_numbers("grid", grid)), self.size
        value, low, high = (1 - c / p for c in (counts.value, counts.high, counts.low))
        return Curve(counts.grid, value, low, high, counts.standard_error / p)

    def density(self, grid: Sequence[float] | Array | Tensor) -> Curve:
        """Return the number of singular values per unit of σ, between neighbours of a grid.

        The curve has one point less than the grid, each in the middle. Bounds are those of the
        counts at both ends, so narrow bins have wide bounds.

        Raises:
            ArgumentError: If the grid is not at least two ascending finite numbers ≥ 0.
        """
        counts = self._counts(ascending_numbers("grid", grid))
        if len(counts) < 2:
            raise ArgumentError("the grid of a density needs at least two points")
        width = np.diff(counts.grid)
        value = -np.diff(counts.value) / width
        low = (counts.low[:-1] - counts.high[1:]).clip(0) / width
        high = (counts.high[:-1] - counts.low[1:]) / width
        share = np.clip(value * width / self.size, 0, 1)
        error = np.zeros(len(width))
        if self.rest is not None:
            rest = self.rest
            spread = [rest.size * rest.error(float(one * (1 - one))) for one in share]
            error = np.where(counts.standard_error[:-1] > 0, spread, 0.0) / width
        return Curve((counts.grid[:-1] + counts.grid[1:]) / 2, value, low, high, error)

    def schatten(self, p: float = 1.0) -> Estimate:
        """Return (Σ σᵖ)^(1/p): the nuclear norm for p = 1, the Frobenius norm for p = 2.

        For p > 4 · steps the upper bound rests on a bound of the largest value: a known one, or, of
        random vectors alone, one that holds with a probability of 1 − 1e-6.

        Raises:
            ArgumentError: If p is not a positive finite number, or float64 cannot hold the norm.
        """
        real = isinstance(p, int | float | np.integer | np.floating) and not isinstance(p, bool)
        if not real or not 0 < p < math.inf:
            raise ArgumentError(
                f"p={shown(p)} must be a positive finite number; the norm for p = inf is s[0]"
            )
        p = float(p)
        if self.rest is not None and p > 4 * self.rest.steps:
            return self._estimate(self._norm_of_large_power(self.rest, p))
        top = self.top
        total = self._sum(lambda s: (s / top) ** p)
        value, low, high = (top * _root(x, p) for x in (total.value, total.low, total.high))
        if math.isinf(value):
            raise ArgumentError(f"the norm for p={p:g} exceeds what float64 can hold; raise p")
        slope = value / (p * total.value) if total.value > 0 else 0.0
        return self._estimate(Estimate(value, low, high, slope * total.standard_error))

    def _norm_of_large_power(self, rest: SampledValues, p: float) -> Estimate:
        """Return (Σ σᵖ)^(1/p) for p > 4 · steps, of which quadrature rules are lower bounds."""
        errors, top = self._known_errors, self.top
        # All values of the rest are below the last known one above it, or the first within it.
        bounds = (self.values + errors)[: self.above + 1]
        largest = float(bounds.min()) if len(bounds) else rest.largest_value
        scale = max(top, largest, *bounds.tolist())
        known, errors = self.values[: self.above], errors[: self.above]
        least = ((known - errors).clamp_min(0) / top) ** p
        most = ((known + errors) / scale) ** p
        sampled = rest.least_mean_of_large_power(lambda s: (s / top) ** p, self.rounding)
        low = top * _root(float(least.sum()) + rest.size * sampled, p)
        if math.isinf(largest):
            return Estimate(low, low, math.inf)
        mean, variance = rest.large_power(p, scale, largest, self.rounding)
        total = float(most.sum()) + rest.size * mean
        high = max(low, scale * _root(total, p))
        error = high / (p * total) * rest.size * rest.error(variance) if total else 0.0
        return Estimate((low + high) / 2, low, high, error)

    def participation_ratio(self) -> Estimate:
        """Return (Σ σ²)² / Σ σ⁴: d for d equal values and zeros."""
        top = self.top
        squares, fourth = self._sum(lambda s: (s / top) ** 2), self._sum(lambda s: (s / top) ** 4)
        if fourth.value == 0:
            return Estimate(math.nan, 0, self.size, basis="all values are 0")
        ratio = squares.value / fourth.value
        value = ratio * squares.value
        low, high = squares.low**2 / fourth.high, squares.high**2 / max(fourth.low, 1e-300)
        error = self._error(lambda s: 2 * ratio * (s / top) ** 2 - ratio**2 * (s / top) ** 4)
        return self._estimate(_confine(Estimate(value, low, high, error), 1, self.size))

    def entropy(self) -> Estimate:
        """Return −Σ p log p with p = σ² / Σ σ², in nats."""
        top = self.top
        squares = self._sum(lambda s: (s / top) ** 2)
        logs = self._sum(lambda s: torch.xlogy((s / top) ** 2, (s / top) ** 2))
        total, mean = squares.value, logs.value / squares.value if squares.value else 0.0
        if total == 0:
            return Estimate(math.nan, 0, math.log(self.size), basis="all values are 0")
        value = math.log(total) - mean
        low = math.log(squares.low) - max(logs.high / squares.high, logs.high / squares.low)
        high = math.log(squares.high) - min(logs.low / squares.high, logs.low / squares.low)
        error = self._error(
            lambda s: (
                ((s / top) ** 2 * (1 + mean) - torch.xlogy((s / top) ** 2, (s / top) ** 2)) / total
            )
        )
        return self._estimate(_confine(Estimate(value, low, high, error), 0, math.log(self.size)))

    def effective_rank(self) -> Estimate:
        """Return the exponential of the entropy: d for d equal values and zeros.

        Shares are those of the energy, p ∝ σ². The effective rank of O. Roy and M. Vetterli
        (EUSIPCO 2007), with p ∝ σ, is another number, and at least as large.
        """
        found = self.entropy()
        if math.isnan(found.value):
            return Estimate(math.nan, 0, self.size, basis=found.basis)
        value, low, high = (math.exp(x) for x in (found.value, found.low, found.high))
        return self._estimate(Estimate(value, low, high, value * found.standard_error))

    def log_volume(self) -> Estimate:
        """Return Σ log σ.

        It has a lower bound where all values are known and lie above their errors. If not, one of
        them may be 0, and `value` is the upper bound; values below rounding enter it as rounding.
        """
        if self.rest is None:
            total = self._sum(torch.log)
        else:
            total = self._sum(lambda s: torch.log(s.clamp_min(self.rounding)))
        known = len(self.values) == self.size and self.rest is None
        if known and bool((self.values > self._known_errors).all()):
            return self._estimate(total)
        error = total.standard_error if math.isfinite(total.high) else 0.0
        return self._estimate(Estimate(total.high, -math.inf, total.high, error))

    def quantile(self, q: float) -> Estimate:
        """Return the σ below which the share q of all singular values lies, 0 < q < 1.

        Its bounds are those of the counts, read off on the other axis, and so are the ends of its
        `interval`, of those of the counts; the standard error says how far these lie off at most,
        for one standard error of the counts. `high` is infinite where no count says that as few
        values are larger.

        Raises:
            ArgumentError: If q does not lie between 0 and 1.
        """
        return find_quantile(self, proper_fraction("q", q))

    def plot(self, ax: Axes | None = None, points: int = 60, **line: Any) -> Axes:
        """Draw σ by index up to the full rank: the known values as a line, the rest as a band.

        Args:
            ax: Where to draw, of matplotlib; None: on a new figure.
            points: Thresholds at which the rest is counted.
            line: What `Axes.plot` takes.

        Raises:
            ArgumentError: If matplotlib is missing, or `ax` is no axes of it.
        """
        from jvpsvd.plot.solved import plot_whole_spectrum

        known = self.values.numpy()
        least = known[-1] if len(known) else self.top
        counts = None
        if self.rest is not None:
            bottom = max(float(self.rest.rule.nodes.min()), self.rounding, 1e-12 * self.top)
            grid = np.geomspace(min(bottom, least) / 2, least, points)
            counts = self.counts(grid)
        return plot_whole_spectrum(known, counts, self.size, ax, line)

    def __str__(self) -> str:
        return (
            f"{self.size} singular values: {self.basis}\n"
            f"σ ≥ 1: {self.count(1.0).in_words()}\n"
            f"participation ratio: {self.participation_ratio().in_words()}\n"
            f"effective rank: {self.effective_rank().in_words()}"
        )

    def __repr__(self) -> str:
        return f"<Spectrum of {self.size} values: {self.basis}>"

    @property
    def top(self) -> float:
        """The largest known value or node, or 1 where all are 0."""
        if len(self.values):
            return float(self.values[0]) or 1.0
        return float(self.rest.rule.nodes.max()) or 1.0 if self.rest is not None else 1.0

    @property
    def _exact_above(self) -> float:
        """Thresholds from here on are counted exactly, by known values."""
        if len(self.values) == self.size:
            return 0.0
        return float((self.values + self._known_errors)[-1]) if len(self.values) else math.inf

    @property
    def _known_errors(self) -> Tensor:
        return self.errors.clamp_min(self.rounding)

    def _known_count(self, threshold: float) -> tuple[float, float]:
        least = int((self.values - self._known_errors >= threshold).sum())
        most = int((self.values + self._known_errors >= threshold).sum())
        return least, most if threshold >= self._exact_above else self.size

    def _sampled_counts(self, thresholds: Tensor) -> tuple[Array, Array, Array, Array]:
        if self.rest is None:
            # Every known value is above such a threshold, as far as errors allow.
            least = np.array([self._known_count(float(t))[0] for t in thresholds], dtype=float)
            whole = np.full(len(thresholds), float(self.size))
            return least, least, whole, np.zeros(len(thresholds))
        rest = self.rest
        off = (EQUAL * thresholds).clamp_min(self.rounding)
        nodes = rest.rule.nodes.reshape(-1, 1)
        at_node = ((nodes - thresholds).abs() <= 2 * off).any(0)
        near = at_node | (thresholds < NEAR_ROUNDING * off)
        low, high = torch.empty_like(thresholds), torch.empty_like(thresholds)
        if not bool(near.all()):
            low[~near], high[~near] = rest.shares_below(thresholds[~near])
        middle = (low + high) / 2
        if bool(near.any()):
            below = thresholds[near] - off[near]
            found = rest.shares_below(below.clamp_min(0))
            low[near] = torch.where(below > 0, found[0], 0.0)
            high[near] = rest.shares_below(thresholds[near] + off[near])[1]
            # Values that equal the threshold are counted, but zeros are not.
            counted = (found[0] + found[1]) / 2
            middle[near] = torch.where(below > off[near], counted, (low[near] + high[near]) / 2)
        for share in (low, middle, high):  # no value is negative
            share[thresholds == 0] = 0.0
        known = torch.tensor([self._known_count(float(t))[0] for t in thresholds]).double()
        counts = [
            torch.maximum(self.above + rest.size * (1 - share), known).clamp_max(self.size)
            for share in (middle, high, low)
        ]
        errors = [rest.size * rest.error(float(m * (1 - m))) for m in middle]
        value, lower, upper = (one.numpy() for one in counts)
        return value, lower, upper, np.array(errors)

    def _sum(self, f: _Function) -> Estimate:
        """Return Σ f(σ) over all values."""
        values = self.values[: self.above] if self.rest is not None else self.values
        errors = self.errors[: len(values)]
        ends = torch.stack([f((values - errors).clamp_min(0)), f(values + errors)])
        total = float(f(values).sum())
        low, high = float(ends.amin(0).sum()), float(ends.amax(0).sum())
        if self.rest is None:
            missing = self.size - len(values)
            if not missing:
                return Estimate(total, low, high)
            least = float(values[-1] + errors[-1]) if len(values) else math.inf
            extremes = f(torch.linspace(0, min(least, 1e300), _POINTS, dtype=torch.float64))
            low, high = (
                low + missing * float(extremes.min()),
                high + missing * float(extremes.max()),
            )
            return Estimate(low, low, high)
        least, middle, most = self.rest.means(f, self.rounding)
        size = self.rest.size
        error = self.rest.standard_error_of_sum(f)
        return Estimate(total + size * middle, low + size * least, high + size * most, error)

    def _error(self, f: _Function) -> float:
        return 0.0 if self.rest is None else self.rest.standard_error_of_sum(f)

    def _estimate(self, found: Estimate) -> Estimate:
        return Estimate(found.value, found.low, found.high, found.standard_error, self.basis)


def _confine(found: Estimate, least: float, most: float) -> Estimate:
    """Return an estimate of a number that can be no less and no more than this.

    >>> _confine(Estimate(9e9, 0.4, 800.0), 1.0, 512.0)
    Estimate(value=512.0, low=1.0, high=512.0, standard_error=0.0, basis='')
    """
    value, low, high = (min(max(x, least), most) for x in (found.value, found.low, found.high))
    return Estimate(value, low, high, found.standard_error, found.basis)


def _root(x: float, p: float) -> float:
    """Return x^(1/p), infinite where float64 cannot hold it."""
    try:
        return float(x ** (1 / p))
    except OverflowError:
        return math.inf
