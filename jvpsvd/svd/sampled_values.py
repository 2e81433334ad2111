"""The singular values that a solve did not find one by one, sampled by its random start."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jvpsvd.svd.krylov.quadrature import GaussRule, Recurrences, gauss_rule

# Ritz values have converged if their residuals are below this, relative to σ₁; below the second
# number, values count as copies of one. The cut is made at the widest gap among the last tenth of
# those that have converged. All three are guesses.
_CONVERGED, _SAME, _LAST = 1e-4, 1e-5, 0.1
# With this probability a value lies above `SampledValues.largest_value`.
_UNSEEN = 1e-6

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class KnownAndSampled:
    """All singular values: the leading ones, and a sample of the others."""

    known: Tensor
    """(j,) descending."""
    errors: Tensor
    """(j,) their residuals."""
    above: int
    """How many of them lie above the sampled rest."""
    rest: SampledValues | None
    """The other values; None where nothing is known of them."""


@dataclass(frozen=True)
class SampledValues:
    """`size` singular values, known through quadrature rules for random vectors.

    If v is uniformly random among unit vectors of dimension q, v' C v has mean tr C / q and
    variance 2 / (q + 2) times the variance of C's eigenvalues. So the standard error of a mean over
    the values follows from the rule itself, and need not be estimated from few columns.

    Args:
        size: How many values there are, q.
        rule: Gauss rules of the part of the random vectors that lies in their space.
        whole: Dimension of the whole space, from which starting vectors were drawn.
        steps: Steps of the recurrence.
    """

    size: int
    rule: GaussRule
    whole: int
    steps: int

    @cached_property
    def mass(self) -> float:
        """The mass of the sample: about the number of columns, times the share q / n."""
        return float(self.rule.weights.sum())

    @cached_property
    def columns(self) -> int:
        """Number of random vectors."""
        return self.rule.starts.shape[0] * self.rule.starts.shape[1]

    @cached_property
    def _zero_rule(self) -> tuple[Tensor, Tensor]:
        return self.rule.with_node_at_zero()

    def means(self, f: Function, rounding: float) -> tuple[float, float, float]:
        """Return a lower bound, the middle and an upper bound of the sample's mean of f(σ).

        The Gauss rule and the rule with a node at 0 bound it from different sides, for f(σ) = g(σ²)
        with g a logarithm, x log x, or a power x^r with r ≤ 2 · steps: its derivatives of order
        2 · steps and 2 · steps + 1, which are in the errors of the two, have different signs.
        `large_power` has powers beyond. Both rules are exact if g is a polynomial of degree less
        than twice the steps.

        Args:
            f: A function of σ, monotone between numbers that differ by the rounding.
            rounding: How far a node may be off.
        """
        gauss, zero = self._means_by_rules(f, rounding)
        middle = gauss[1] if math.isinf(zero[1]) else (gauss[1] + zero[1]) / 2
        return min(gauss[0], zero[0]), middle, max(gauss[2], zero[2])

    def least_mean_of_large_power(self, f: Function, rounding: float) -> float:
        """Return a lower bound of the mean of a power above 4 · steps: that of the better rule."""
        return max(each[0] for each in self._means_by_rules(f, rounding))

    def _means_by_rules(self, f: Function, rounding: float) -> list[list[float]]:
        """Return the least mean of f, the mean and the largest, by each of both rules."""
        found = []
        for nodes, weights in ((self.rule.nodes, self.rule.weights), self._zero_rule):
            ends = torch.stack([f((nodes - rounding).clamp_min(0)), f(nodes), f(nodes + rounding)])
            each = (ends.amin(0), f(nodes), ends.amax(0))
            found.append([_weighted_sum(weights, one) / float(weights.sum()) for one in each])
        return found

    def large_power(
        self, power: float, scale: float, largest: float, rounding: float
    ) -> tuple[float, float]:
        """Return upper bounds of the mean and the variance of (σ / scale)^power, power ≥ 4 · steps.

        For such a power both rules are lower bounds: all derivatives have one sign. No value
        exceeds b. So the mean is at most that of σ^(4 · steps), which the rule with a node at 0 has
        exactly, times the rest of the power of b; and the mean square at most b^power times that.

        Args:
            power: Of σ.
            scale: What σ is divided by.
            largest: A number b that no value exceeds.
            rounding: How far a node may be off.
        """
        nodes, weights = self._zero_rule
        exact = 4 * self.steps
        mean = _weighted_sum(weights, ((nodes + rounding) / scale) ** exact) / float(weights.sum())
        mean *= (largest / scale) ** (power - exact)
        return mean, mean * (largest / scale) ** power

    @cached_property
    def largest_value(self) -> float:
        """A number that no value exceeds, but with a probability of 1e-6.

        The part of C random unit vectors along one direction is less than C a / n with a
        probability of at most (a e)^(C / 2), by Chernoff's bound. σ₁ has at least that mass.
        """
        columns = self.columns
        least = columns * _UNSEEN ** (2 / columns) / (math.e * self.whole)
        low = float(self.rule.nodes.max()) * (1 + 2 * _SAME)
        if low == 0 or self.rule.largest_mass_at(low) < least:
            return low
        high = 2 * low
        while self.rule.largest_mass_at(high) >= least:
            low, high = high, 2 * high
            if not math.isfinite(high * high):
                return math.inf
        while high > low * (1 + _SAME):
            middle = math.sqrt(low * high)
            above = self.rule.largest_mass_at(middle) >= least
            low, high = (middle, high) if above else (low, middle)
        return high

    def standard_error_of_sum(self, f: Function) -> float:
        """Return the standard error of Σ f(σ) over all `size` values."""
        weights, nodes = self.rule.weights, self.rule.nodes
        if self.steps == 1:  # one node, and so no variance; the rule with a node at 0 has more
            nodes, weights = self._zero_rule
        weights, values = weights / weights.sum(), f(nodes)
        centred = values - (weights * values).sum()
        if len(weights) == 1:
            # Each Ritz value stands for one value at least, however small its weight came out.
            # (Single vectors have no bases that would keep the same value from coming twice.)
            weights = weights.clamp_min(1 / self.size)
        variance = float((weights * centred**2).sum())
        return self.size * self.error(variance) if math.isfinite(variance) else math.inf

    def shares_below(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Return bounds (t,) of the share of the sample that lies below thresholds (t,)."""
        low, high = self.rule.below(thresholds)
        return low / self.mass, high / self.mass

    def error(self, variance: float) -> float:
        """Return the standard error of a mean over the values, given their variance."""
        # Columns whose part in this space is short count less; orthonormal columns of one block
        # are no independent sample of a small space.
        masses = (self.rule.starts**2).sum(-1).reshape(-1)
        effective = float(masses.sum() ** 2 / (masses**2).sum())
        block = self.rule.starts.shape[1]
        finite = (self.whole - block) / max(1, self.whole - 1) if block > 1 else 1.0
        return math.sqrt(2 / (self.size + 2) * max(0.0, variance) / effective * finite)


def _weighted_sum(weights: Tensor, values: Tensor) -> float:
    """Return the sum of weights times values, of which those without weight may be infinite."""
    return float(torch.where(weights > 0, weights * values, 0.0).sum())


def known_and_sampled(
    sample: Recurrences, known: Tensor, errors: Tensor, size: int, rounding: float
) -> KnownAndSampled:
    """Split all values into those known one by one and a sampled rest.

    Ritz values beyond the known ones join these where their vectors have converged. The rest begins
    at a cut above which all Ritz vectors have converged, so that their part can be taken out of the
    sample.

    Args:
        sample: What the solve left.
        known: (j,) leading singular values, none missing among them.
        errors: (j,) their residuals.
        size: Number n of all values.
        rounding: Error of Ritz values by rounding.
    """
    rule, above = gauss_rule(sample), 0
    if len(rule.nodes) == 1:
        single = _count_before_copies(rule, sample.width, _SAME, rounding)
        matched = _are_the_leading(rule, known, errors + rounding)
        if matched:
            # As far as errors reach, values may be copies of which more exist than were found.
            apart = _count_before_copies(rule, sample.width, _CONVERGED, rounding)
            known, errors = _with_further(rule, apart, known, errors)
        cut, above = _cut(rule, known, single if matched else 0, rounding)
        rule = rule.without_leading(cut)
    # Vectors without a part in the rest say nothing of it.
    empty = above >= size or float(rule.weights.sum()) < torch.finfo(torch.float64).eps
    rest = None if empty else SampledValues(size - above, rule, size, sample.steps)
    return KnownAndSampled(known, errors, above, rest)


def _count_before_copies(rule: GaussRule, width: int, share: float, rounding: float) -> int:
    """Return how many Ritz values come before the first that is repeated as often as a block holds.

    Such a value may have more copies than were found. Zeros are always taken to be such values.
    Values nearer to each other than this share of σ₁ count as copies.
    """
    nodes = rule.nodes[0]
    apart = share * nodes[0] + rounding
    filled = nodes <= apart
    filled[: len(nodes) + 1 - width] |= (
        nodes[: len(nodes) + 1 - width] - nodes[width - 1 :] <= apart
    )
    return int(filled.long().argmax()) if bool(filled.any()) else len(nodes)


def _are_the_leading(rule: GaussRule, known: Tensor, errors: Tensor) -> bool:
    """Tell whether the leading Ritz values are the known values, one by one."""
    count = len(known)
    if not 0 < count < rule.nodes.shape[-1]:
        return False
    off = rule.estimates[0, :count] + errors
    return bool(((rule.nodes[0, :count] - known).abs() <= off).all())


def _with_further(
    rule: GaussRule, single: int, known: Tensor, errors: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the known values and those that follow, have converged and cannot have more copies."""
    nodes, estimates = rule.nodes[0], rule.estimates[0]
    converged = int((estimates <= _CONVERGED * nodes[0]).long().cumprod(0).sum())
    further = slice(len(known), max(len(known), min(converged, single)))
    return torch.cat([known, nodes[further]]), torch.cat([errors, estimates[further]])


def _cut(rule: GaussRule, known: Tensor, single: int, rounding: float) -> tuple[int, int]:
    """Return how many Ritz values and how many known values lie above the cut.

    A cut lies between two known values that differ, or below the last one if no copy is missing.

    Args:
        rule: The Ritz values.
        known: The known values.
        single: How many leading Ritz values are known values without further copies.
        rounding: Error of Ritz values by rounding.
    """
    nodes, estimates = rule.nodes[0], rule.estimates[0]
    middle, gaps = (nodes[:-1] + nodes[1:]) / 2, nodes[:-1] - nodes[1:]
    least = float(known[-1]) if len(known) else math.inf
    converged = int((estimates <= _CONVERGED * nodes[0]).long().cumprod(0).sum())
    usable = int((middle >= least).long().cumprod(0).sum())
    last = min(converged, max(usable, min(single, len(known))), len(gaps))
    if last == 0:
        return 0, 0
    first = last - 1 - int(_LAST * last)
    at = first + int(gaps[first:last].argmax())
    if gaps[at] <= _SAME * nodes[0] + rounding:
        return 0, 0
    return at + 1, int((known > middle[at]).sum())
