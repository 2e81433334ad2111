"""Repeated and clustered singular values: which of them blocks of b columns can miss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Computed values of a repeated value differ by this much rounding, in units of eps · s₁.
_ROUNDING = 10.0
# Residual, relative to s₁, below which values that are not separated count as one repeated value: a
# guess. Different values so close together are rare, and to begin again for them costs little.
_SHARP = 1e-7
# A value repeated in more than this many blocks was found through random refills, not from the
# starting block and rounding alone.
_REFILLED = 4
# The copies of a repeated value converge one after the other, the last of them late where the
# starting block has little of it. Of b copies so many may lag behind a coarse tolerance: solves
# with blocks of 4 missed the fourth copy, and seldom the third.
_MAY_LAG = 2
# Copies are taken not to lag behind several values whose residuals are as small as the first
# number, relative to s₁, nor behind a single one with a residual of this share of the tolerance.
# Guesses: `tests/svd/methods/test_repeated_values.py` keeps solves that missed a copy without them.
_LAG_RESIDUAL, _LAG_SHARE = 1e-5, 0.1
# As many values as a block has columns lie close if they are within this many tolerances: a guess.
_CLOSE = 1.5


def guaranteed_count(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> int:
    """Count the leading values that are right to tol · s₁ even if a multiplicity is too small.

    b values that residuals and rounding do not separate may be one value whose multiplicity exceeds
    b. Then some of its repetitions are missing, and they would displace all values that lie more
    than a tolerance below it. The first such cluster decides.

    Args:
        s: (k,) values, descending.
        estimates: (k,) their residuals.
        tol: Tolerance, relative to s₁.
        block_size: b: how often the bases can hold a repeated value.
        dtype: Dtype of the products; their rounding spreads repeated values.

    >>> s, exact = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5]), torch.zeros(5)
    >>> [guaranteed_count(s, exact, 1e-5, b, torch.float64) for b in (3, 4)]
    [4, 5]
    """
    cluster = _first_cluster(s, estimates, block_size, dtype)
    return s.shape[0] if cluster is None else _count_down_to(s, cluster, tol)


def block_is_too_narrow(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> bool:
    """Tell whether a repeated value fills the block, so that repetitions may be missing already.

    Such a value shows as a cluster, as in `guaranteed_count`, of values that are accurate to
    rounding or to 1e-7 s₁. If many more than b values are equal, blocks have lost rank and were
    refilled at random, and no wider block is needed.

    >>> s, exact = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5]), torch.zeros(5)
    >>> [block_is_too_narrow(s, exact, 1e-5, b, torch.float64) for b in (1, 2, 3, 4)]
    [True, True, True, False]
    """
    sharp = torch.where(is_sharp(s, estimates, dtype), estimates, -torch.inf)
    cluster = _first_cluster(s, sharp, block_size, dtype)
    if cluster is None or _count_down_to(s, cluster, tol) == s.shape[0]:
        return False
    near = 3 * torch.maximum(_rounding(s, dtype), _SHARP * s[0])
    return int(((s - s[cluster]).abs() <= near).sum()) <= _REFILLED * block_size


def values_lie_close(s: Tensor, tol: float, block_size: int) -> bool:
    """Tell whether b values, two at least, lie within 1.5 tolerances, and a gap above one follows.

    A copy of one of them may still lag behind, unless tol is 1e-5 or less, although residuals tell
    them apart. It displaces the values below the gap by more than a tolerance. The gaps of most
    spectra decrease, so that none follows.

    >>> s = torch.tensor([1.0, 0.6548, 0.6544, 0.6])
    >>> [values_lie_close(s, tol, 2) for tol in (1e-4, 4e-4, 0.1)], values_lie_close(s, 4e-4, 3)
    ([False, True, False], False)
    """
    last = max(1, block_size - 1)
    if tol <= _LAG_RESIDUAL or len(s) <= last + 1:
        return False
    near = (s[:-last] - s[last:] <= _CLOSE * tol * s[0]).nonzero()
    gaps = (s[:-1] - s[1:] > tol * s[0]).nonzero()
    return bool(len(near) and len(gaps)) and int(near[0]) + last <= int(gaps[-1])


def is_sharp(s: Tensor, estimates: Tensor, dtype: torch.dtype) -> Tensor:
    """Tell which values are accurate to rounding or to 1e-7 s₁.

    >>> is_sharp(torch.tensor([3.0, 1.0]), torch.tensor([0.0, 1e-5]), torch.float64)
    tensor([ True, False])
    """
    return estimates <= torch.maximum(_rounding(s, dtype), _SHARP * s[0])


def least_bound_on_copies(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> float:
    """Return a bound that missing copies are above, if they could displace others by a tolerance.

    Of the clusters of `guaranteed_count` whose missing copies would do so, the last decides. The
    bound holds for A (I − V V'): the triplets are exact for an A + E with ‖E‖ ≤ ρ, where ρ² is the
    sum of their squared residuals, so a value of A has moved there by 2ρ at most. It is infinite if
    there is no such cluster, and may lie below the last value if residuals are large.

    >>> s, exact = torch.tensor([3.0, 2.0, 2.0, 1.0, 1.0, 0.5]).double(), torch.zeros(6)
    >>> round(least_bound_on_copies(s, exact, 1e-5, 2, torch.float64), 6)
    1.0
    """
    last = block_size - 1
    if len(s) < block_size:
        return math.inf
    displacing = s[: len(s) - last] > s[-1] + tol * s[0]
    clusters = (_clusters(s, estimates, block_size, dtype) & displacing).nonzero()
    if not len(clusters):
        return math.inf
    lowest = int(clusters[-1]) + last
    moved = 2 * torch.linalg.vector_norm(estimates.clamp_min(0)) + _rounding(s, dtype)
    return float(torch.maximum(s[lowest] - estimates[lowest], s[-1] + tol * s[0]) - moved)


def count_without_lag(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> int:
    """Count the leading values that copies cannot displace by a tolerance while they lag behind.

    Copies may lag behind b − 2 values that are not separated (two in blocks of three, one in
    narrower blocks), until the residuals of these are small. The first such values decide. If tol
    is 1e-5 or less, nothing lags.

    >>> s = torch.tensor([3.0, 1.0, 1.0, 0.5])
    >>> [count_without_lag(s, r * torch.ones(4), 1e-2, 4, s.dtype) for r in (3e-3, 1e-6)]
    [3, 4]
    """
    k, copies = s.shape[0], max(1, min(2, block_size - 1), block_size - _MAY_LAG)
    small = _LAG_RESIDUAL if copies > 1 else max(_LAG_RESIDUAL, _LAG_SHARE * tol)
    if tol <= small or k < copies:
        return k
    worst = estimates.unfold(0, copies, 1).amax(dim=1)
    lag = (_clusters(s, estimates, copies, dtype) & (worst > small * s[0])).nonzero()
    return _count_down_to(s, int(lag[0]), tol) if len(lag) else k


def _rounding(s: Tensor, dtype: torch.dtype) -> Tensor:
    return _ROUNDING * torch.finfo(dtype).eps * s[0]


def _first_cluster(s: Tensor, estimates: Tensor, count: int, dtype: torch.dtype) -> int | None:
    """Return the index at which the first cluster of `count` unseparated values begins, or None."""
    if s.shape[0] < count:
        return None
    clusters = _clusters(s, estimates, count, dtype).nonzero()
    return int(clusters[0]) if len(clusters) else None


def _clusters(s: Tensor, estimates: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Return at which indices `count` unseparated values begin."""
    last = count - 1
    first, end = s.shape[0] - last, s.shape[0]
    reach = estimates[:first] + estimates[last:end] + _rounding(s, dtype)
    return s[:first] - s[last:end] <= reach


def _count_down_to(s: Tensor, cluster: int, tol: float) -> int:
    """Count the values that missing members of a cluster could not displace by a tolerance."""
    return int((s >= s[cluster] - tol * s[0]).sum())
