"""What a solve found: values with their residuals, and the whole spectrum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jvpsvd.plot.axes import Array, axes_or_new, label_axes, scale_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MISSED = "#c2410c"
_DOTS = 40  # up to so many values have dots of their own
_SMALLEST = 1e-16  # over σ₁: what the axis shows, which has no place for 0


class Counts(Protocol):
    """Numbers of values above thresholds, as `jvpsvd.svd.estimate.Curve` has them."""

    @property
    def grid(self) -> Array:
        """Thresholds."""

    @property
    def value(self) -> Array:
        """Estimates."""

    @property
    def low(self) -> Array:
        """Lower bounds."""

    @property
    def high(self) -> Array:
        """Upper bounds."""

    @property
    def standard_error(self) -> Array:
        """Of what was sampled."""


def plot_spectra(
    s: Array, residuals: Array, converged: Array, first: int, ax: Axes | None, line: dict[str, Any]
) -> Axes:
    """Draw spectra (B, k) against their index on a logarithmic axis; return the axes.

    A band reaches from s − residual to s + residual. Values that are not certified are crosses.

    Args:
        s: (B, k) singular values.
        residuals: (B, k) their residuals.
        converged: (B, k) which met the tolerance.
        first: Index of the first value.
        ax: Where to draw; None: on a new figure.
        line: What matplotlib's `plot` takes, for the lines.

    Raises:
        ArgumentError: If matplotlib is missing, or `ax` is no axes of it.
    """
    ax = axes_or_new(ax)
    count, k = s.shape
    index = np.arange(first, first + k)
    floor = float(s.max()) * _SMALLEST
    bottom = float(s[s > floor].min(initial=s.max())) / 3  # of bands that reach 0
    style = {"linewidth": 1.5, "marker": "." if k <= _DOTS else "", "alpha": count**-0.5} | line
    for number, (values, errors) in enumerate(zip(s, residuals, strict=True)):
        (drawn,) = ax.plot(index, np.where(values > floor, values, np.nan), **style)
        style |= {"color": drawn.get_color(), "label": "_nolegend_"}
        low, high = (np.maximum(values + sign * errors, bottom) for sign in (-1, 1))
        band = 0.25 * float(style["alpha"])
        ax.fill_between(index, low, high, color=drawn.get_color(), alpha=band, linewidth=0)
        missed = ~converged[number]
        if missed.any():
            ax.plot(index[missed], values[missed], "x", color=_MISSED, markersize=5, zorder=3)
    if floor > 0:
        scale_values(ax)
    label_axes(ax)
    return ax


def plot_whole_spectrum(
    known: Array, counts: Counts | None, size: int, ax: Axes | None, line: dict[str, Any]
) -> Axes:
    """Draw known values as a line, and counts of the others as a line with bands; return the axes.

    The dark band is what the quadrature leaves open, the light one adds two standard errors.

    Args:
        known: (j,) leading values.
        counts: Numbers of values above thresholds; None where nothing is known of the rest.
        size: Number of all values.
        ax: Where to draw; None: on a new figure.
        line: What matplotlib's `plot` takes, for the lines.

    Raises:
        ArgumentError: If matplotlib is missing, or `ax` is no axes of it.
    """
    ax = axes_or_new(ax)
    style = {"linewidth": 1.8} | line
    positive = np.where(known > 0, known, np.nan)
    (drawn,) = ax.plot(np.arange(1, len(known) + 1), positive, **style)
    color = drawn.get_color()
    if counts is not None:
        twice = 2 * counts.standard_error
        inner, outer = (counts.low, counts.high), (counts.low - twice, counts.high + twice)
        for (low, high), alpha in ((outer, 0.15), (inner, 0.3)):
            low, high = low.clip(1, size), high.clip(1, size)
            ax.fill_betweenx(counts.grid, low, high, color=color, alpha=alpha, linewidth=0)
        ax.plot(counts.value, counts.grid, color=color, linewidth=0.9, linestyle="--")
    scale_values(ax)
    ax.set_xlim(0.5, size + 0.5)
    label_axes(ax)
    return ax
