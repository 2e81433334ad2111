"""Spectra of several depths, or of several of anything, with bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.plot import style
from jvpsvd.plot.axes import Array, axes_or_new, label_axes, scale_values, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def spectra(s: Any, ax: Axes | None = None, **line: Any) -> Axes:
    """Draw mean spectra with a band of one standard deviation; return the axes.

    Lines go from dark to light in the order given, and differ in their dashes as well.

    Args:
        s: (k,) or (photos, k) values, or whatever has them as `s`, such as a result of `svds`; or
            several of these by name; or what `jvpsvd.spectra` returned. NaN stands for values that
            an input has not.
        ax: Where to draw; None: on a new figure.
        line: What matplotlib's `plot` takes, for all lines.

    Raises:
        ArgumentError: If matplotlib is missing, or values are no spectra.

    Example: ``jvpsvd.plot.spectra({"layer3": three, "output": out}).legend()``.
    """
    if isinstance(depths := getattr(s, "depths", None), tuple):  # of jvpsvd.spectra
        s = {depth.layer: depth.s for depth in depths}
    named = s if isinstance(s, Mapping) else {None: s}
    rows = {name: _rows(name, values) for name, values in named.items()}
    ax = axes_or_new(ax)
    for number, (name, values) in enumerate(rows.items()):
        index = np.arange(1, values.shape[1] + 1)
        mean, deviation = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        shade = style.shades(len(rows))[number]
        options = {
            "color": shade,
            "linestyle": style.line_style(number),
            "linewidth": 1.6,
            "marker": "o" if len(index) == 1 else "",
            **({} if name is None else {"label": str(name)}),
        } | line
        (drawn,) = ax.plot(index, np.where(mean > 0, mean, np.nan), **options)
        if len(values) > 1:
            lower = np.maximum(mean - deviation, mean / 100)
            ax.fill_between(
                index, lower, mean + deviation, color=drawn.get_color(), alpha=0.18, linewidth=0
            )
    if any((values > 0).any() for values in rows.values()):
        scale_values(ax)
    label_axes(ax)
    return ax


def _rows(name: Any, given: Any) -> Array:
    which = "s" if name is None else f"s[{name!r}]"
    if isinstance(depths := getattr(given, "depths", None), tuple):
        raise ArgumentError(
            f"{which} holds {len(depths)} depths; give one, as S[{depths[0].layer!r}]"
        )
    values = values_of(which, getattr(given, "s", given), "result.s, or several by name")
    rows = values[None] if values.ndim == 1 else values
    no_spectra = rows.ndim != 2 or not rows.size or np.isinf(rows).any() or (rows < 0).any()
    if no_spectra or np.isnan(rows).all(axis=0).any():
        raise ArgumentError(
            f"{which} has shape {values.shape}; give singular values, (k,) or (photos, k)"
        )
    return rows
