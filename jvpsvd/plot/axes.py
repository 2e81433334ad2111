"""Axes of matplotlib, which is optional, and their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jvpsvd.errors import ArgumentError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = np.ndarray[Any, np.dtype[Any]]


def load_matplotlib() -> tuple[Any, Any]:
    """Return matplotlib and its class of figures, which need no window.

    Raises:
        ArgumentError: If it is missing.
    """
    try:
        import matplotlib as mpl
        import matplotlib.colors
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError("figures need matplotlib; install jvpsvd[plot]") from error
    return mpl, Figure


def axes_or_new(ax: Axes | None, width: float = 5.6, height: float = 3.6) -> Axes:
    """Return the axes, or new ones.

    Raises:
        ArgumentError: If matplotlib is missing, or `ax` is no axes of it.
    """
    try:
        import matplotlib.pyplot as plt
        from matplotlib.axes import Axes as AxesType
    except ImportError as error:
        raise ArgumentError("plot() needs matplotlib; install jvpsvd[plot]") from error
    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, AxesType):
        raise ArgumentError(f"ax is a {type(ax).__name__}; give axes, as plt.subplots() returns")
    return ax


def label_axes(ax: Axes) -> None:
    """Label the axes of values against their index, and leave ticks at whole indices."""
    whole_ticks(ax)
    ax.set_xlabel("index i")
    ax.set_ylabel("singular value")


def whole_ticks(ax: Axes) -> None:
    """Leave only whole numbers on a linear axis of indices."""
    from matplotlib.ticker import MaxNLocator

    if ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
