"""Whether two probes of a network differ by more than rounding; see `probe`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VALUES, GRADIENT = 1e-3, 5e-2
"""Relative changes that count as another network: above rounding on any machine. Rounding moves
values a little; a gradient jumps where it decides on which side of a kink a unit lies."""

PRODUCTS = 4
"""Products of each depth and of the gradient in a probe, beside a norm."""


def changed_network(before: Sequence[float], now: Sequence[float], depths: int) -> str:
    """Return in words how two probes differ; empty if only by rounding.

    A probe has one part for each test input, and those of older versions had one alone: where both
    have the first part only, that is compared.

    >>> changed_network([2.0, 0, 0, 1, 0] * 2, [2.0, 0, 0, 1.6, 0] + [2.0, 0, 0, 1, 0], 1)
    'its values at a test input by 3e-01'
    """
    size = (depths + 1) * (PRODUCTS + 1)
    if bool(before) != bool(now):
        return "it can be evaluated at a test input only now, or no longer"
    for start in range(0, min(len(before), len(now)), size):
        change = _changed_part(before[start : start + size], now[start : start + size])
        if change:
            return change
    return ""


def _changed_part(before: Sequence[float], now: Sequence[float]) -> str:
    one, two = (np.array(probe).reshape(-1, PRODUCTS + 1) for probe in (before, now))
    scale = np.maximum(one[:, :1], two[:, :1])
    change = np.divide(np.abs(one - two), scale, out=np.zeros_like(one), where=scale > 0)
    of_values, of_gradient = change[:-1].max(initial=0.0), change[-1:].max(initial=0.0)
    if of_values > VALUES:
        return f"its values at a test input by {of_values:.0e}"
    if of_gradient > GRADIENT:
        return f"its derivatives at a test input by {of_gradient:.0e}"
    return ""
