"""Figures, each drawn by one function from numbers that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.imports import require
from jvpsvd.report.class_trees import ClassTrees
from jvpsvd.report.estimates import ESTIMATES, Estimates, outer_range, titles
from jvpsvd.report.summary import WIDE, DepthSummary, outer_bounds
from jvpsvd.survey.store.files import make_folder, refuse_other_kinds

_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "jvpsvd",
    "legend.frameon": False,
}
_DASHES = ("solid", (0, (6, 1.5)), (0, (3, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))

_INKS = ("#1b1b1f", "#0b4f9e", "#a8480a", "#2f6b3a")


def draw_spectra(summaries: Sequence[DepthSummary], title: str, folder: Path) -> list[Path]:
    """Draw the mean spectrum of every depth with its standard deviation; return PNG and SVG.

    One line per depth, σ_i on a logarithmic axis against i, a band of one standard deviation over
    photos, and a line at σ = 1 (Mototake & Ikegami, figure 8). Beyond the k values, down to the
    full rank, a thin line shows how many values lie above σ, and a band what is not known of that:
    the bounds, with two standard errors.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has values.
    """
    mpl, Figure = _matplotlib()
    drawn = _with_values(summaries)
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
            _draw_rest(axes, depth, shade)
            dashes = _DASHES[number % len(_DASHES)]
            marker = "o" if len(index) == 1 else ""
            lines += axes.plot(
                index, mean, color=shade, linestyle=dashes, linewidth=1.6, marker=marker
            )
        axes.axhline(1.0, color="0.4", linewidth=0.8, zorder=0)
        axes.annotate(
            "σ = 1", (0.995, 1.0), xycoords=("axes fraction", "data"), ha="right", va="bottom",
            fontsize=8, color="0.4",
        )  # fmt: skip
        axes.set_yscale("log")
        k, last = _last_index(drawn)
        if last > WIDE * k:
            axes.set_xscale("log")
        axes.set_xlim(1, max(2, last))
        axes.set_xlabel("index i of the singular value")
        axes.set_ylabel("singular value σᵢ of ∂h/∂x")
        photos = max(depth.photos for depth in drawn)
        heading = f"{title}: mean of {photos} photos ± one standard deviation"
        below = sum(depth.below_residual for depth in drawn)
        if below:
            of = sum(depth.s.size for depth in drawn)
            heading += f"\n{below} of {of} values are below their residual"
        axes.set_title(heading, fontsize=9)
        # Named here: matplotlib drops labels of lines that begin with an underscore.
        labels = [f"{depth.layer}  ({depth.shape[0]})" for depth in drawn]
        axes.legend(
            lines, labels, title="depth (units)", loc="upper left", bbox_to_anchor=(1.0, 1.0),
            fontsize=8, title_fontsize=8, handlelength=3,
        )  # fmt: skip
        return _save(figure, folder, "spectra")


def draw_heat_map(summaries: Sequence[DepthSummary], title: str, folder: Path) -> list[Path]:
    """Draw mean σ_i by depth and index, lighter where it is larger; return PNG and SVG.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has values.

    Example: ``draw_heat_map(summarize(store), "efficientnet-lite0", Path("report"))``.
    """
    mpl, Figure = _matplotlib()
    drawn = _with_values(summaries)
    widest = max(depth.s.shape[1] for depth in drawn)
    means = np.full((len(drawn), widest), np.nan)
    for row, depth in zip(means, drawn, strict=True):
        row[: depth.s.shape[1]] = depth.s.mean(axis=0)
    positive = means[means > 0]
    if not len(positive):
        raise ArgumentError("all singular values are 0; there is nothing to draw")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 1.4 + 0.3 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        k = means.shape[1]
        image = axes.imshow(
            np.maximum(means, positive.min()), aspect="auto", interpolation="nearest",
            cmap="cividis", norm=mpl.colors.LogNorm(),
            extent=(0.5, k + 0.5, len(drawn) - 0.5, -0.5),
        )  # fmt: skip
        axes.set_yticks(range(len(drawn)), [depth.layer for depth in drawn], fontsize=8)
        axes.set_xlabel("index i of the singular value")
        axes.set_title(f"{title}: mean σᵢ by depth", fontsize=9)
        figure.colorbar(image, ax=axes, label="mean σᵢ")
        return _save(figure, folder, "heat-map")


def draw_dimensions(
    layers: Sequence[str],
    estimates: Sequence[Estimates],
    title: str,
    folder: Path,
    threshold: float = 1.0,
) -> list[Path]:
    """Draw the dimension estimates of every depth with their deviation; return PNG and SVG.

    Thick bars are the bounds of the mean with two standard errors.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has an estimate.

    Example: ``draw_dimensions(layers, [estimate(depth, 1e-5) for depth in depths], "net", here)``.
    """
    mpl, Figure = _matplotlib()
    if not any(np.isfinite(found.values["count"]).any() for found in estimates):
        raise ArgumentError("no depth has values to draw; see 'jvpsvd verify'")
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        title_of = {
            name: f"{text}, at least" if any(one.bounds(name) for one in estimates) else text
            for name, text in titles(threshold).items()
        }
        marks = zip(ESTIMATES, _INKS, _DASHES[:2] + _DASHES[3:], "osD^", strict=True)
        for name, ink, dashes, marker in marks:
            known = [found.values[name][np.isfinite(found.values[name])] for found in estimates]
            at = [number for number, values in enumerate(known) if len(values) and values.mean()]
            if not at:
                continue
            mean = np.array([known[number].mean() for number in at])
            spread = np.array([known[number].std() for number in at])
            below = np.minimum(spread, 0.9 * mean)
            axes.errorbar(
                at, mean, (below, spread), color=ink, linestyle=dashes, marker=marker,
                markersize=5, capsize=2, elinewidth=0.7, linewidth=1.4, label=title_of[name],
            )  # fmt: skip
            ends = np.array([outer_range(estimates[number].mean(name)) for number in at])
            bounded = np.isfinite(ends).all(axis=1)
            x = np.array(at)[bounded]
            axes.vlines(x, *ends[bounded].clip(min=0.1).T, color=ink, alpha=0.3, linewidth=5)
        axes.set_yscale("log")
        axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right", fontsize=8)
        axes.set_ylabel("dimension")
        axes.set_title(f"{title}: mean over photos ± one standard deviation", fontsize=9)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, handlelength=3)
        return _save(figure, folder, "dimensions")


def draw_class_tree(trees: ClassTrees, title: str, folder: Path) -> list[Path]:
    """Draw the classes' tree by spectra at the last depth against WordNet's; return PNG and SVG.

    Raises:
        ArgumentError: If matplotlib is missing.

    Example: ``draw_class_tree(trees, "efficientnet-lite0", Path("report"))``.
    """
    mpl, Figure = _matplotlib()
    mine, classes = trees.depths[-1], len(trees.names)
    groups = sorted(set(trees.groups))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 1.2 + 0.17 * classes), layout="constrained")
        axes = figure.add_subplot()
        for x, y in zip(0.28 * (1 - mine.branches.x), mine.branches.y, strict=True):
            axes.plot(x, y, color="0.1", linewidth=0.8)
        for x, y in zip(0.72 + 0.28 * trees.wordnet.x, trees.wordnet.y, strict=True):
            axes.plot(x, y, color="0.1", linewidth=0.8)
        theirs = {number: at for at, number in enumerate(trees.wordnet.order)}
        for at, number in enumerate(mine.branches.order):
            group = groups.index(trees.groups[number])
            ink, dashes = _INKS[group % len(_INKS)], _DASHES[group // len(_INKS) % len(_DASHES)]
            axes.plot((0.46, 0.54), (at, theirs[number]), color=ink, linestyle=dashes)
            axes.text(0.285, at, _shorten(trees.names[number]), va="center", fontsize=7)
        for number, at in theirs.items():
            axes.text(0.715, at, _shorten(trees.names[number]), va="center", ha="right", fontsize=7)
        axes.set_ylim(classes - 0.3, -0.7)
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        agreement = "" if mine.test is None else f", correlation {mine.test.correlation:.2f}"
        axes.set_title(
            f"{title}: classes by spectra at {mine.layer} (left) and by WordNet{agreement}",
            fontsize=9,
        )
        return _save(figure, folder, "class-tree")


def _draw_rest(axes: Any, depth: DepthSummary, shade: Any) -> None:
    """Draw what is known of the values beyond the k-th."""
    rest = depth.rest
    if rest is not None:
        k, size = depth.s.shape[1], min(depth.shape)
        # Where the k values end, it begins.
        grid = np.append(rest.grid, depth.s[:, -1].mean())
        low, value, high = (
            np.append(edge.clip(k, size), k)
            for edge in (outer_bounds(rest)[0], rest.value, outer_bounds(rest)[1])
        )
        axes.fill_betweenx(grid, low, high, color=shade, alpha=0.18, linewidth=0)
        axes.plot(value, grid, color=shade, linewidth=0.8)


def _last_index(drawn: Sequence[DepthSummary]) -> tuple[int, float]:
    """Return the largest k and the largest index that is drawn."""
    k = max(depth.s.shape[1] for depth in drawn)
    return k, max(k, *(float(one.rest.high.max()) for one in drawn if one.rest is not None), 0)


def _matplotlib() -> tuple[Any, Any]:
    require("a figure", "plot", "matplotlib")
    import matplotlib as mpl
    import matplotlib.colors
    from matplotlib.figure import Figure

    return mpl, Figure


def _with_values(summaries: Sequence[DepthSummary]) -> list[DepthSummary]:
    drawn = [depth for depth in summaries if depth.photos]
    if not drawn:
        raise ArgumentError("no depth has values to draw; see 'jvpsvd verify'")
    return drawn


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    make_folder(folder)
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    for file in files:
        refuse_other_kinds(file)
    figure.savefig(files[0], dpi=160)
    figure.savefig(files[1], metadata={"Date": None})
    return files


def _shorten(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"
