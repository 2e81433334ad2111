"""How the k values of a depth fall: a power law, an exponential, and the energy that they hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jvpsvd.report.values import Array, DepthValues

SHARES = (0.5, 0.9)
"""Shares of the energy whose index is told."""


@dataclass(frozen=True)
class Decay:
    """Fits of each photo at a depth; NaN where there are fewer than three values to fit."""

    power: Array
    """(P,) α of σᵢ ∝ i^−α."""
    power_fit: Array
    """(P,) R² of that on log σ."""
    length: Array
    """(P,) τ of σᵢ ∝ e^(−i/τ), which is infinite where values do not fall."""
    length_fit: Array
    """(P,) R² of that on log σ."""
    energy: Array
    """(k,) mean share of ‖J‖²_F that the first i values hold; NaN where it is not known."""

    def reaches(self, share: float) -> int | None:
        """Return the first index at which the mean energy is at least a share; None: none is."""
        reached = np.flatnonzero(self.energy >= share)
        return int(reached[0]) + 1 if len(reached) else None


def fit_decay(depth: DepthValues, floor: float) -> Decay:
    """Return least-squares fits of log σᵢ against log i and against i, photo by photo.

    Args:
        depth: The rows.
        floor: Values below floor · σ₁ of their photo are noise and enter no fit.

    Example: ``fit_decay(read_values(store).depths[-1], 1e-5).power.mean()``.
    """
    index = np.arange(1, depth.s.shape[1] + 1, dtype=np.float64)
    used = depth.s > floor * depth.s[:, :1]
    logs = np.log(np.where(used, depth.s, 1.0))
    power, power_fit = _slopes(np.broadcast_to(np.log(index), depth.s.shape), logs, used)
    rate, length_fit = _slopes(np.broadcast_to(index, depth.s.shape), logs, used)
    length = np.divide(-1.0, rate, out=np.full_like(rate, np.inf), where=rate < 0)
    known = depth.fro2 > 0
    energy = np.full(len(index), np.nan)
    if known.any():
        held = np.square(depth.s[known]).cumsum(axis=1) / depth.fro2[known][:, None]
        energy = held.mean(axis=0).clip(max=1.0)
    return Decay(-power, power_fit, np.where(np.isnan(rate), np.nan, length), length_fit, energy)


def _slopes(x: Array, y: Array, used: Array) -> tuple[Array, Array]:
    """Return slopes and R² of lines through the entries of each row that are used."""
    count = used.sum(axis=1)
    weight = used / np.maximum(count, 1)[:, None]
    dx = x - (weight * x).sum(axis=1, keepdims=True)
    dy = y - (weight * y).sum(axis=1, keepdims=True)
    xx, xy, yy = ((weight * one).sum(axis=1) for one in (dx * dx, dx * dy, dy * dy))
    enough = (count >= 3) & (xx > 0)
    slope = np.divide(xy, xx, out=np.full(len(x), np.nan), where=enough)
    fit = np.divide(xy**2, xx * yy, out=np.where(enough, 1.0, np.nan), where=enough & (yy > 0))
    return slope, fit
