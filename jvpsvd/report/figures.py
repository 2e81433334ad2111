"""Figures, each drawn by one function from numbers that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.report.summary import DepthSummary

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "jvpsvd",
    "legend.frameon": False,
}
_DASHES = ("solid", (0, (6, 1.5)), (0, (3, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))


def draw_spectra(summaries: Sequence[DepthSummary], title: str, folder: Path) -> list[Path]:
    """Draw the mean spectrum of every depth with its standard deviation; return PNG and SVG.

    One line per depth, σ_i on a logarithmic axis against i, a band of one standard deviation over
    photos, and a line at σ = 1 (Mototake & Ikegami, figure 8).

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has values.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError("figures need matplotlib; install jvpsvd[plot]") from error
    drawn = [depth for depth in summaries if depth.photos]
    if not drawn:
        raise ArgumentError("no depth has values to draw; see 'jvpsvd verify'")
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        # From dark to light with depth, and dashes beside colour, so that grey print is readable.
        shades = mpl.colormaps["viridis"](np.linspace(0.0, 0.8, len(drawn)))
        lines: list[Any] = []
        for number, (depth, shade) in enumerate(zip(drawn, shades, strict=True)):
            index = np.arange(1, depth.s.shape[1] + 1)
            mean, deviation = depth.s.mean(axis=0), depth.s.std(axis=0)
            lower = np.maximum(mean - deviation, mean / 100)
            axes.fill_between(index, lower, mean + deviation, color=shade, alpha=0.18, linewidth=0)
            dashes = _DASHES[number % len(_DASHES)]
            lines += axes.plot(index, mean, color=shade, linestyle=dashes, linewidth=1.6)
        axes.axhline(1.0, color="0.4", linewidth=0.8, zorder=0)
        axes.annotate(
            "σ = 1", (0.995, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=8, color="0.4",
        )  # fmt: skip
        axes.set_yscale("log")
        axes.set_xlim(1, max(depth.s.shape[1] for depth in drawn))
        axes.set_xlabel("index i of the singular value")
        axes.set_ylabel("singular value σᵢ of ∂h/∂x")
        photos = max(depth.photos for depth in drawn)
        axes.set_title(f"{title}: mean of {photos} photos ± one standard deviation", fontsize=9)
        # Named here: matplotlib drops labels of lines that begin with an underscore.
        labels = [f"{depth.layer}  ({depth.shape[0]})" for depth in drawn]
        axes.legend(
            lines, labels, title="depth (units)", loc="upper left", bbox_to_anchor=(1.0, 1.0),
            fontsize=8, title_fontsize=8, handlelength=3,
        )  # fmt: skip
        files = [folder / "spectra.png", folder / "spectra.svg"]
        figure.savefig(files[0], dpi=160)
        figure.savefig(files[1], metadata={"Date": None})
    return files
