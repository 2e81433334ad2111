"""Axes of matplotlib, which is optional, and their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError, JvpsvdError
from jvpsvd.imports import importing, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAME = 1e-9  # matplotlib warns of limits that are the same after rounding
_LEAST, _MOST = 1e-200, 1e200  # its logarithmic axes overflow beyond

Array = np.ndarray[Any, np.dtype[Any]]


def load_matplotlib() -> tuple[Any, Any]:
    """Return matplotlib and its class of figures, which need no window.

    Raises:
        MissingPackageError: If it is not installed.
    """
    with importing("a figure", "plot", "matplotlib"):
        import matplotlib as mpl
        import matplotlib.colors
        from matplotlib.figure import Figure

    return mpl, Figure


def axes_or_new(ax: Axes | None, width: float = 5.6, height: float = 3.6) -> Axes:
    """Return the axes, or new ones.

    Raises:
        MissingPackageError: If matplotlib is not installed.
        ArgumentError: If `ax` is no axes of it.
    """
    with importing("plot()", "plot", "matplotlib"):
        import matplotlib.pyplot as plt
        from matplotlib.axes import Axes as AxesType

    if ax is None:
        return plt.subplots(figsize=(width, height), layout="constrained")[1]
    if not isinstance(ax, AxesType):
        raise ArgumentError(f"ax is a {type(ax).__name__}; give axes, as plt.subplots() returns")
    return ax


def numbers_of(name: str, given: Any, instead: str) -> Array:
    """Return numbers as float64, those of a tensor wherever it is.

    Args:
        name: What the argument is called.
        given: The numbers.
        instead: What to give instead of what holds none.

    Raises:
        ArgumentError: If it holds no numbers.

    >>> import torch
    >>> numbers_of("s", torch.ones(2, requires_grad=True), "result.s")
    array([1., 1.])
    """
    try:
        if hasattr(given, "detach"):  # of torch, which figures of arrays do without
            given = given.detach().cpu()
            given = given.double() if given.is_floating_point() else given
        if np.iscomplexobj(given):
            raise TypeError("complex numbers")
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, JvpsvdError) as error:
        what = shown(given)
        raise ArgumentError(
            f"{name} is {what}; give a tensor or array of real numbers, as {instead}"
        ) from error


def values_of(name: str, given: Any, instead: str) -> Array:
    """Return numbers as `numbers_of` does; those too small for a logarithmic axis are 0.

    Raises:
        ArgumentError: If it holds no numbers, or one that is too large.

    >>> values_of("s", [1.0, 1e-300], "result.s")
    array([1., 0.])
    """
    values = numbers_of(name, given, instead)
    if (np.isfinite(values) & (values > _MOST)).any():
        raise ArgumentError(f"{name} holds values above {_MOST:.0e}; draw them over the largest")
    return np.where(np.abs(values) < _LEAST, 0.0, values)


def scale_values(ax: Axes) -> None:
    """Make the axis of values logarithmic, with room around values that are all the same."""
    ax.set_yscale("log")
    low, high = ax.dataLim.intervaly
    if 0 < low <= high <= low * (1 + _SAME):
        ax.set_ylim(low / 2, high * 2, auto=True)


def label_axes(ax: Axes) -> None:
    """Label the axes of values against their index, and leave ticks at whole indices."""
    whole_ticks(ax)
    ax.set_xlabel("index i")
    ax.set_ylabel("singular value")


def whole_ticks(ax: Axes) -> None:
    """Leave only whole numbers on a linear axis of indices."""
    require("plot()", "plot", "matplotlib")
    from matplotlib.ticker import MaxNLocator

    if ax.get_xscale() == "linear":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
