"""Numbers by depth and index, as a map of colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.plot import style
from jvpsvd.plot.axes import Array, axes_or_new, load_matplotlib, values_of, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def depth_by_index(means: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Draw σ_i by depth and index, lighter where it is larger; return the axes.

    Args:
        means: (k,) values of each depth, by name; depths may differ in k.
        ax: Where to draw; None: on a new figure.

    Raises:
        ArgumentError: If matplotlib is missing, or no value is positive.

    Example: ``jvpsvd.plot.depth_by_index({"layer3": s3, "output": s})``.
    """
    mpl, _ = load_matplotlib()
    if not isinstance(means, Mapping):
        raise ArgumentError(
            f"means is {shown(means)}; give (k,) values by name, as {{layer: S[layer].mean}}"
        )
    rows = {
        name: values_of(f"means[{name!r}]", getattr(one, "s", one), "result.s")
        for name, one in means.items()
    }
    wrong = [
        n for n, row in rows.items() if row.ndim != 1 or not (np.isfinite(row) & (row >= 0)).all()
    ]
    if wrong:
        raise ArgumentError(
            f"means[{wrong[0]!r}] has shape {rows[wrong[0]].shape}; give (k,) singular values"
        )
    k = max((len(row) for row in rows.values()), default=0)
    table: Array = np.full((len(rows), k), np.nan)
    for line, row in zip(table, rows.values(), strict=True):
        line[: len(row)] = row
    positive = table[table > 0]
    if not len(positive):
        raise ArgumentError("all singular values are 0, or below 1e-200; there is nothing to draw")
    ax = axes_or_new(ax, 7.4, 1.4 + 0.3 * len(rows))
    image = ax.imshow(
        np.maximum(table, positive.min()), aspect="auto", interpolation="nearest",
        cmap=style.heat_colours(), norm=mpl.colors.LogNorm(),
        extent=(0.5, k + 0.5, len(rows) - 0.5, -0.5),
    )  # fmt: skip
    ax.set_yticks(range(len(rows)), list(rows), fontsize=8)
    ax.set_xlabel("index i")
    whole_ticks(ax)
    ax.get_figure().colorbar(image, ax=ax, label="mean σᵢ")  # type: ignore[union-attr]
    return ax
