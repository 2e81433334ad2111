"""The whole spectrum as a row keeps it: counts at fixed thresholds, and three sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jvpsvd.svd.estimate import Estimate
    from jvpsvd.svd.spectrum import Spectrum

Array = np.ndarray[Any, np.dtype[np.float64]]

# Ten per decade, so that 1 is among them. Stored rows do not repeat them: another grid would need
# columns of other names.
THRESHOLDS: Array = np.array([float(f"{10 ** (i / 10):.12g}") for i in range(-40, 41)])
"""Thresholds of the column `counts` and its companions, ascending."""

# Values this share of s₁ below a threshold may equal it, as svd.whole_spectrum._ROUNDING.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)

COUNT_COLUMNS = ("counts", "counts_low", "counts_high", "counts_error")
"""Columns of a number for each threshold."""

SUM_COLUMNS = ("participation", "entropy", "nuclear_norm")
"""Columns of value, low, high and standard error."""


def spectrum_columns(spectrum: Spectrum) -> dict[str, Any]:
    """Return the columns of a row that hold its whole spectrum.

    >>> import torch, jvpsvd
    >>> columns = spectrum_columns(jvpsvd.svds(torch.eye(3), 2).spectrum)
    >>> columns["size"], columns["counts"][40:42], round(columns["participation"][0])
    (3, [3.0, 0.0], 3)
    """
    counts = spectrum.counts(THRESHOLDS)
    numbers = (counts.value, counts.low, counts.high, counts.standard_error)
    sums = (spectrum.participation_ratio(), spectrum.entropy(), spectrum.schatten(1))
    return {
        "size": spectrum.size,
        **{name: one.tolist() for name, one in zip(COUNT_COLUMNS, numbers, strict=True)},
        **{name: _four(one) for name, one in zip(SUM_COLUMNS, sums, strict=True)},
    }


def counts_at(
    threshold: float, counts: Array, s: Array, residuals: Array, converged: Array, size: int
) -> Array:
    """Return (4, photos) counts of σ ≥ threshold: value, low, high and standard error.

    The k values decide where all of them are certified and the last lies below the threshold. Else
    a threshold between two stored ones has the lower bound of the next higher one, the upper bound
    of the next lower one, and a value between the two. Rows that keep no counts, of older versions,
    give the number of their values ≥ threshold as a lower bound and value, and `size` as the upper.

    Args:
        threshold: A positive number.
        counts: (photos, 4, thresholds) of `COUNT_COLUMNS`; NaN where a row keeps none.
        s: (photos, k) descending.
        residuals: (photos, k).
        converged: (photos,) triplets that are certified.
        size: Number of all values.
    """
    equal = _ROUNDING * s[:, :1] + 0.0 * residuals
    errors = np.maximum(residuals, equal)
    of_k, low, high = (
        (s + off >= threshold).sum(axis=1).astype(float) for off in (equal, -errors, errors)
    )
    value, error = of_k.copy(), np.zeros(len(s))
    stored = ~np.isnan(counts[:, 0, 0])
    k = s.shape[1]
    decided = (k == size) | ((converged == k) & (s[:, -1] + errors[:, -1] < threshold))
    low[~decided], high[~decided] = (s >= threshold).sum(axis=1)[~decided], size
    sampled = ~decided & stored
    if sampled.any():
        found = _between(threshold, counts[sampled])
        low[sampled] = np.maximum(low[sampled], found[1])
        high[sampled] = np.maximum(low[sampled], np.minimum(found[2], size))
        value[sampled] = np.clip(found[0], low[sampled], high[sampled])
        error[sampled] = found[3]
    return np.stack([value, low, high, error])


def _between(threshold: float, counts: Array) -> Array:
    """Return (4, photos) value, low, high and standard error at a threshold, by its neighbours."""
    last = len(THRESHOLDS) - 1
    upper = int(np.searchsorted(THRESHOLDS, threshold * (1 - 1e-9)))
    if upper <= last and np.isclose(THRESHOLDS[upper], threshold, rtol=1e-9, atol=0):
        return np.moveaxis(counts[:, :, upper], 1, 0).copy()
    lower = upper - 1
    above, below = counts[:, :, min(upper, last)], counts[:, :, max(lower, 0)]
    if upper > last:  # beyond the grid, one neighbour is missing
        above = np.zeros_like(below)
    if lower < 0:
        below = np.where(np.arange(4) == 2, np.inf, above)
    logs = np.log(THRESHOLDS[[max(lower, 0), min(upper, last)]])
    share = (np.log(threshold) - logs[0]) / (logs[1] - logs[0]) if logs[1] > logs[0] else 0.5
    value = (1 - share) * below[:, 0] + share * above[:, 0]
    return np.stack([value, above[:, 1], below[:, 2], np.maximum(above[:, 3], below[:, 3])])


def _four(found: Estimate) -> list[float]:
    return [found.value, found.low, found.high, found.standard_error]
