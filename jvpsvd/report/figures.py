"""Figures, each drawn by one function from numbers that are stored."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd import plot
from jvpsvd.arguments import as_path
from jvpsvd.errors import ArgumentError
from jvpsvd.plot import style
from jvpsvd.plot.axes import load_matplotlib, whole_ticks
from jvpsvd.report.class_trees import ClassTrees
from jvpsvd.report.estimates import ESTIMATES, Estimates, outer_range, titles
from jvpsvd.report.files import write_data
from jvpsvd.report.summary import WIDE, DepthSummary, outer_bounds
from jvpsvd.report.values import Array
from jvpsvd.survey.store.files import make_folder
from jvpsvd.text_table import count_noun


def draw_spectra(
    summaries: Sequence[DepthSummary],
    title: str,
    folder: str | os.PathLike[str],
    one: str = "photo",
    threshold: float = 1.0,
) -> list[Path]:
    """Draw the mean spectrum of every depth with its standard deviation; return PNG and SVG.

    One line per depth, σ_i on a logarithmic axis against i, a band of one standard deviation over
    photos, and a line at the threshold (σ = 1 in Mototake & Ikegami, figure 8). Means below the
    residual are left out. Beyond the k values, down to the full rank, a thin line shows how many
    values lie above σ, and a band what is not known of that: the bounds, with two standard errors.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has values.
    """
    mpl, Figure = load_matplotlib()
    drawn = _with_values(summaries)
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        plot.spectra({depth.layer: depth.drawn for depth in drawn}, axes)
        lines = list(axes.lines)
        for depth, shade in zip(drawn, style.shades(len(drawn)), strict=True):
            _draw_rest(axes, depth, shade)
        axes.axhline(threshold, color="0.4", linewidth=0.8, zorder=0)
        axes.annotate(
            f"σ = {threshold:g}", (0.995, threshold), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8, color="0.4",
        )  # fmt: skip
        axes.set_yscale("log")
        k, last = _last_index(drawn)
        if last > WIDE * k:
            axes.set_xscale("log")
        axes.set_xlim(1, max(2, last))
        whole_ticks(axes)
        axes.set_xlabel("index i of the singular value")
        axes.set_ylabel("singular value σᵢ of ∂h/∂x")
        photos = max(depth.photos for depth in drawn)
        heading = f"{title}: mean of {count_noun(photos, one)} ± one standard deviation"
        below = sum(depth.below_residual for depth in drawn)
        if below:
            of = sum(depth.s.size for depth in drawn)
            heading += f"\n{below} of {of} values are below their residual"
            heading += "; such means are not drawn" if _is_cut(drawn) else ""
        axes.set_title(heading, fontsize=9)
        # Named here: matplotlib drops labels of lines that begin with an underscore.
        labels = [f"{depth.layer}  ({depth.shape[0]})" for depth in drawn]
        axes.legend(
            lines, labels, title="depth (units)", loc="upper left", bbox_to_anchor=(1.0, 1.0),
            fontsize=8, title_fontsize=8, handlelength=3,
        )  # fmt: skip
        return save_figure(figure, folder, "spectra")


def draw_heat_map(
    summaries: Sequence[DepthSummary], title: str, folder: str | os.PathLike[str]
) -> list[Path]:
    """Draw mean σ_i by depth and index, lighter where it is larger; return PNG and SVG.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has values.

    Example: ``draw_heat_map(summarize(store), "efficientnet-lite0", Path("report"))``.
    """
    mpl, Figure = load_matplotlib()
    drawn = _with_values(summaries)
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 1.4 + 0.3 * len(drawn)), layout="constrained")
        axes = plot.depth_by_index(
            {depth.layer: depth.drawn.mean(axis=0) for depth in drawn}, figure.add_subplot()
        )
        heading = f"{title}: mean σᵢ by depth"
        if _is_cut(drawn):
            heading += "; no colour where the mean is below the residual"
        axes.set_title(heading, fontsize=9)
        return save_figure(figure, folder, "heat-map")


def draw_dimensions(
    layers: Sequence[str],
    estimates: Sequence[Estimates],
    title: str,
    folder: str | os.PathLike[str],
    threshold: float = 1.0,
) -> list[Path]:
    """Draw the dimension estimates of every depth with their deviation; return PNG and SVG.

    Thick bars are the bounds of the mean with two standard errors; a caret stands over a mean that
    is only a lower bound.

    Raises:
        ArgumentError: If matplotlib is missing, or no depth has an estimate.

    Example: ``draw_dimensions(layers, [estimate(depth, 1e-5) for depth in depths], "net", here)``.
    """
    mpl, Figure = load_matplotlib()
    if not any(np.isfinite(found.values["count"]).any() for found in estimates):
        raise ArgumentError("no depth has values to draw; see 'jvpsvd verify'")
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        title_of = titles(threshold)
        for number, (name, ink, marker) in enumerate(
            zip(ESTIMATES, style.INKS, "osD^", strict=True)
        ):
            dashes = style.line_style(number)
            known = [found.values[name][np.isfinite(found.values[name])] for found in estimates]
            at = [depth for depth, values in enumerate(known) if len(values) and values.mean()]
            if not at:
                continue
            mean = np.array([known[depth].mean() for depth in at])
            spread = np.array([known[depth].std() for depth in at])
            below = np.minimum(spread, 0.9 * mean)
            axes.errorbar(
                at, mean, (below, spread), color=ink, linestyle=dashes, marker=marker,
                markersize=5, capsize=2, elinewidth=0.7, linewidth=1.4, label=title_of[name],
            )  # fmt: skip
            ends = np.array([outer_range(estimates[depth].mean(name)) for depth in at])
            bounded = np.isfinite(ends).all(axis=1)
            x = np.array(at)[bounded]
            axes.vlines(x, *ends[bounded].clip(min=0.1).T, color=ink, alpha=0.3, linewidth=5)
            # A caret over what is only a lower bound.
            cut = [depth for depth in at if estimates[depth].bounds(name)]
            over = [1.25 * float(known[depth].mean()) for depth in cut]
            axes.plot(cut, over, linestyle="", marker=6, color=ink, markersize=5)
        axes.set_yscale("log")
        axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right", fontsize=8)
        axes.set_ylabel("dimension")
        axes.set_title(f"{title}: mean ± one standard deviation", fontsize=9)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, handlelength=3)
        return save_figure(figure, folder, "dimensions")


def draw_class_tree(trees: ClassTrees, title: str, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the classes' tree by spectra at the last depth against WordNet's; return PNG and SVG.

    Raises:
        ArgumentError: If matplotlib is missing.

    Example: ``draw_class_tree(trees, "efficientnet-lite0", Path("report"))``.
    """
    mpl, Figure = load_matplotlib()
    compared, mine = trees.compared, trees.depths[-1]
    last, classes = compared.depths[-1], len(compared.names)
    groups = sorted(set(compared.superclasses))
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 1.2 + 0.17 * classes), layout="constrained")
        axes = figure.add_subplot()
        for x, y in zip(0.28 * (1 - mine.x), mine.y, strict=True):
            axes.plot(x, y, color="0.1", linewidth=0.8)
        for x, y in zip(0.72 + 0.28 * trees.wordnet.x, trees.wordnet.y, strict=True):
            axes.plot(x, y, color="0.1", linewidth=0.8)
        theirs = {number: at for at, number in enumerate(trees.wordnet.order)}
        for at, number in enumerate(mine.order):
            group = groups.index(compared.superclasses[number])
            ink = style.INKS[group % len(style.INKS)]
            dashes = style.line_style(group // len(style.INKS))
            axes.plot((0.46, 0.54), (at, theirs[number]), color=ink, linestyle=dashes)
            axes.text(0.285, at, _shorten(compared.names[number]), va="center", fontsize=7)
        for number, at in theirs.items():
            name = _shorten(compared.names[number])
            axes.text(0.715, at, name, va="center", ha="right", fontsize=7)
        axes.set_ylim(classes - 0.3, -0.7)
        axes.set_xlim(0, 1)
        axes.set_axis_off()
        agreement = "" if last.test is None else f", correlation {last.test.correlation:.2f}"
        axes.set_title(
            f"{title}: classes by spectra at {last.layer} (left) and by WordNet{agreement}",
            fontsize=9,
        )
        return save_figure(figure, folder, "class-tree")


def draw_class_matrices(
    trees: ClassTrees, title: str, folder: str | os.PathLike[str]
) -> list[Path]:
    """Draw distances of classes at every depth beside WordNet's, in the order of WordNet's tree.

    Colours are ranks, which the correlation compares: dark pairs are near. Returns PNG and SVG.

    Raises:
        ArgumentError: If matplotlib is missing.

    Example: ``draw_class_matrices(trees, "efficientnet-lite0", Path("report"))``.
    """
    mpl, Figure = load_matplotlib()
    compared, order = trees.compared, list(trees.wordnet.order)
    pictures = [("WordNet", compared.wordnet.numpy())]
    for depth in compared.depths:
        told = "" if depth.test is None else f": {depth.test.correlation:+.2f}"
        pictures.append((f"{depth.layer}{told}", depth.distances.numpy()))
    columns = min(4, len(pictures))
    lines = -(-len(pictures) // columns)
    with mpl.rc_context(style.SETTINGS):
        figure = Figure(figsize=(7.4, 7.4 / columns * lines + 0.3), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        for axes, (name, matrix) in zip(grid, pictures, strict=False):
            axes.imshow(rank_pairs(matrix)[np.ix_(order, order)], cmap=style.heat_colours())
            axes.set_title(name, fontsize=8)
        figure.suptitle(f"{title}: distances of {len(order)} classes, by rank", fontsize=9)
        return save_figure(figure, folder, "class-distances")


def rank_pairs(matrix: Array) -> Array:
    """Return a symmetric matrix of distances as shares of their ranks, NaN on the diagonal.

    >>> rank_pairs(np.array([[0.0, 5.0, 7.0], [5.0, 0.0, 9.0], [7.0, 9.0, 0.0]]))[0].tolist()
    [nan, 0.0, 0.5]
    """
    pairs = np.triu_indices(len(matrix), 1)
    _, ranks = np.unique(matrix[pairs], return_inverse=True)
    found: Array = np.full(matrix.shape, np.nan)
    found[pairs] = ranks / max(1, ranks.max())
    return np.fmax(found, found.T)


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


def _is_cut(drawn: Sequence[DepthSummary]) -> bool:
    return any(depth.drawn.shape != depth.s.shape for depth in drawn)


def _with_values(summaries: Sequence[DepthSummary]) -> list[DepthSummary]:
    drawn = [depth for depth in summaries if depth.photos]
    if not drawn:
        raise ArgumentError("no depth has values to draw; see 'jvpsvd verify'")
    return drawn


def save_figure(figure: Any, folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write a figure as NAME.png and NAME.svg; equal numbers give equal files."""
    folder = as_path("folder", folder, "a folder")
    make_folder(folder)
    settings: dict[str, dict[str, Any]] = {"png": {"dpi": 160}, "svg": {"metadata": {"Date": None}}}
    files = [folder / f"{name}.{form}" for form in settings]
    for file, (form, options) in zip(files, settings.items(), strict=True):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, **options)
        figure.set_layout_engine("none")  # laid out once: that takes as long as to draw
        write_data(file, drawn.getvalue())
    return files


def _shorten(text: str) -> str:
    return text if len(text) <= 20 else f"{text[:19]}…"
