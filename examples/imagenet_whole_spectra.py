"""Whole spectra as rows that can be compared: counts of σ ≥ τ, and σ by rank beyond the k-th.

A survey keeps, of every photo and depth, how many of *all* singular values are at least τ, for ten
thresholds per decade, with bounds. Only thresholds are used at which the bounds are narrow.
"""

from __future__ import annotations

import numpy as np

from jvpsvd import survey

WIDEST = 0.25
"""Bounds of a count, as a share of it, on average over photos."""
RANKS = 40
"""Ranks at which σ is read off."""
THRESHOLDS = 10 ** (np.arange(-40, 41) / 10)
"""At which `survey` keeps counts."""


def whole_rows(
    results: survey.Results, depth: str, order: np.ndarray
) -> tuple[dict[str, np.ndarray], tuple[float, int]]:
    """Return rows (photos, numbers) of whole spectra at a depth, photos in this order.

    "counts" has the logarithms of the counts of σ ≥ τ. "whole" has log σ at ranks from 1 to the
    last that is known well, "whole shape" the same without the mean of the photo. The pair that
    follows says down to which threshold, and up to which rank.
    """
    s = results.spectra(depth).s[order]
    found = [results.counts(depth, float(threshold)) for threshold in THRESHOLDS]
    value, low, high = (
        np.stack([getattr(one, name)[order] for one in found], axis=1)
        for name in ("value", "low", "high")
    )
    width = ((high - low) / value.clip(1)).mean(0)
    known = (width < WIDEST) & (value.min(0) >= 1)
    last = int(np.flatnonzero(known)[0])
    used = slice(last, int(np.flatnonzero(known)[-1]) + 1)
    ranks = np.geomspace(1, value[:, last].min(), RANKS)
    whole = np.stack(
        [_log_values(one, count[last:], last, ranks) for one, count in zip(s, value, strict=True)]
    )
    rows = {
        "counts": np.log(value[:, used]),
        "whole": whole,
        "whole shape": whole - whole.mean(1, keepdims=True),
    }
    return rows, (float(THRESHOLDS[last]), int(ranks[-1]))


def _log_values(s: np.ndarray, counts: np.ndarray, last: int, ranks: np.ndarray) -> np.ndarray:
    """Return log σ at these ranks: the k values, and beyond them the inverse of the counts."""
    thresholds = THRESHOLDS[last:]
    beyond = (thresholds < s[-1]) & (counts > len(s))
    more, below = counts[beyond][::-1], thresholds[beyond][::-1]
    first = np.diff(more, prepend=len(s)) > 0  # below the last value, counts stay as they are
    index = np.concatenate([np.arange(1, len(s) + 1), more[first]])
    logs = np.log(np.concatenate([s, below[first]]))
    return np.interp(np.log(ranks), np.log(index), logs)
