"""Repeated and clustered singular values: how many copies a block can have met."""

from __future__ import annotations

import torch
from torch import Tensor

# Copies of one value differ by rounding: in units of eps · s₁.
_ROUNDING = 10.0
# Residual, relative to s₁, below which values that are not told apart are taken for copies.
_SHARP = 1e-9
# So many blocks of copies were not met by the start block and rounding alone.
_REFILLED = 4


def guaranteed_count(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> int:
    """Count the leading values that are right to tol · s₁ even if copies are missing.

    Copies of one value are found within their residuals of it. So the first b values in a row that
    residuals and rounding do not tell apart may stand for more than b; these would displace all
    values more than a tolerance below the first of them.

    Args:
        s: (k,) values, descending.
        estimates: (k,) their residuals.
        tol: Relative to s₁.
        block_size: b, how many copies of one value the bases can hold.
        dtype: That of the products, whose rounding spreads copies.

    >>> s, exact = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5]), torch.zeros(5)
    >>> [guaranteed_count(s, exact, 1e-5, b, torch.float64) for b in (3, 4)]
    [4, 5]
    """
    cluster = _first_cluster(s, estimates, block_size, dtype)
    return s.shape[0] if cluster is None else _count_down_to(s, cluster, tol)


def block_is_too_narrow(
    s: Tensor, estimates: Tensor, tol: float, block_size: int, dtype: torch.dtype
) -> bool:
    """Tell whether a value fills the block for certain, so that copies may be missing already.

    That is a cluster, as in `guaranteed_count`, of values known to rounding, or to 1e-9 s₁. Where
    many more than b values are alike, blocks have lost their rank and were refilled at random: no
    wider one is needed.

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
    """Return where the first row of `count` values begins that are not told apart, if any does."""
    last = count - 1
    if s.shape[0] <= last:
        return None
    first, end = s.shape[0] - last, s.shape[0]
    reach = estimates[:first] + estimates[last:end] + _rounding(s, dtype)
    clusters = (s[:first] - s[last:end] <= reach).nonzero()
    return int(clusters[0]) if len(clusters) else None


def _count_down_to(s: Tensor, cluster: int, tol: float) -> int:
    """Count the values that more copies of the cluster's would not displace by a tolerance."""
    return int((s >= s[cluster] - tol * s[0]).sum())
