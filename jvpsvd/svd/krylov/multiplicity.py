"""Repeated and clustered singular values: which of them blocks of b columns can miss."""

from __future__ import annotations

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
    near = torch.maximum(_rounding(s, dtype), _SHARP * s[0])
    sharp = torch.where(estimates <= near, estimates, -torch.inf)
    cluster = _first_cluster(s, sharp, block_size, dtype)
    if cluster is None or _count_down_to(s, cluster, tol) == s.shape[0]:
        return False
    return int(((s - s[cluster]).abs() <= 3 * near).sum()) <= _REFILLED * block_size


def _rounding(s: Tensor, dtype: torch.dtype) -> Tensor:
    return _ROUNDING * torch.finfo(dtype).eps * s[0]


def _first_cluster(s: Tensor, estimates: Tensor, count: int, dtype: torch.dtype) -> int | None:
    """Return the index at which the first cluster of `count` unseparated values begins, or None."""
    last = count - 1
    if s.shape[0] <= last:
        return None
    first, end = s.shape[0] - last, s.shape[0]
    reach = estimates[:first] + estimates[last:end] + _rounding(s, dtype)
    clusters = (s[:first] - s[last:end] <= reach).nonzero()
    return int(clusters[0]) if len(clusters) else None


def _count_down_to(s: Tensor, cluster: int, tol: float) -> int:
    """Count the values that missing members of a cluster could not displace by a tolerance."""
    return int((s >= s[cluster] - tol * s[0]).sum())
