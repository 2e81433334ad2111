"""Colours, dashes and settings of every figure: those of matplotlib, and those of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jvpsvd.imports import require

SETTINGS: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.hashsalt": "jvpsvd",
}
"""What `matplotlib.rc_context` takes; with the salt, equal figures are equal files."""

DASHES: tuple[tuple[float, ...], ...] = ((), (6, 1.5), (3, 1.5), (1, 1), (6, 1.5, 1, 1.5))
"""Lengths of dashes and gaps, in widths of the line; () is a solid line. They stand beside colours,
so that print in grey keeps lines apart."""

COLOURS = ("#000000", "#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7")
"""Okabe & Ito's colours for many kinds, from dark to light, so that grey print keeps them apart."""

INKS = ("#1b1b1f", "#0b4f9e", "#a8480a", "#2f6b3a")
"""Colours of kinds of things, on white."""
INKS_ON_DARK = ("#f1f1f4", "#7db8ff", "#ff9d5c", "#7fd495")
"""The same, on black."""
PICKED, PICKED_ON_DARK = "#b3261e", "#ff8a80"

VIRIDIS = (
    "#440154", "#48186a", "#472d7b", "#424086", "#3b528b", "#33638d", "#2c728e", "#26828e",
    "#21918c", "#1fa088", "#28ae80", "#3fbc73", "#5ec962", "#84d44b", "#addc30", "#d8e219",
    "#fde725",
)  # fmt: skip
"""matplotlib's viridis at equal steps; the page must not need matplotlib."""
CIVIDIS = (
    "#00224e", "#002e6a", "#1a386f", "#32436d", "#434e6c", "#535a6d", "#61656f", "#6f7073",
    "#7d7c78", "#8c8878", "#9b9476", "#aba072", "#bcae6c", "#cdbb63", "#dec958", "#f0d846",
    "#fee838",
)  # fmt: skip
"""matplotlib's cividis, likewise."""
# What stands out from white, and from black.
_ON_WHITE, _ON_BLACK = (0.0, 0.8), (0.3, 1.0)


def shades(count: int, *, on_dark: bool = False) -> list[str]:
    """Return colours for an ordered set, such as depths: viridis as far as it can be seen.

    >>> shades(2), shades(1)
    (['#440154', '#7cd250'], ['#440154'])
    """
    low, high = _ON_BLACK if on_dark else _ON_WHITE
    step = (high - low) / max(1, count - 1)
    return [interpolate(VIRIDIS, low + step * number) for number in range(count)]


def interpolate(stops: Sequence[str], share: float) -> str:
    """Return the colour at a share of the way along equally spaced colours.

    >>> interpolate(("#000000", "#0000ff"), 0.5)
    '#000080'
    """
    along = share * (len(stops) - 1)
    first = min(int(along), len(stops) - 2)
    ends = [[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in stops[first : first + 2]]
    mixed = [round(a + (along - first) * (b - a)) for a, b in zip(*ends, strict=True)]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def heat_colours() -> Any:
    """Return the map of colours of figures for matplotlib: the one that the page interpolates."""
    require("a figure", "plot", "matplotlib")
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", CIVIDIS)


def line_style(number: int) -> Any:
    """Return what matplotlib takes as the line style of the line of this number."""
    dashes = DASHES[number % len(DASHES)]
    return (0, dashes) if dashes else "solid"
