"""The figures of `imagenet_classes.py`, each drawn by one function from stored numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from mnist_figures import DASHES, saved
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from jvpsvd.geometry import average_tree


def draw_all(numbers: dict[str, Any], out: Path) -> list[Path]:
    """Draw every figure; return the files."""
    made = {
        "correlations": lambda: correlations(numbers),
        "matrices": lambda: matrices(numbers),
        "trees": lambda: trees(numbers),
        "superclasses": lambda: superclasses(numbers),
    }
    return [file for name, draw in made.items() for file in saved(draw, out / name)]


def correlations(numbers: dict[str, Any]) -> Figure:
    """Correlation with WordNet of every representation, with intervals and shuffled labels."""
    said = numbers["said"]
    figure = Figure(figsize=(7.4, 0.27 * len(said) + 1.0), layout="constrained")
    axes = figure.add_subplot()
    heights = np.arange(len(said))[::-1]
    for y, one in zip(heights, said.values(), strict=True):
        r, p, low, high = one["path"]
        axes.plot([low, high], [y, y], color="0.35", linewidth=1.2)
        axes.plot(r, y, "o", color="#0072B2" if p < 0.05 else "white", markeredgecolor="#0072B2")
        if "shuffled" in one:
            mean, deviation = one["shuffled"]
            axes.errorbar(
                mean, y - 0.22, xerr=deviation, color="#D55E00", marker="|", linewidth=0.9
            )
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    axes.set_yticks(heights, list(said))
    axes.set_xlabel(
        "rank correlation of class distances with WordNet (95 % over classes); filled: p < 0.05;\n"
        "below: labels shuffled",
        fontsize=8,
    )
    return figure


def matrices(numbers: dict[str, Any]) -> Figure:
    """Distances between classes, ordered by WordNet's tree."""
    depths, said = numbers["depths"], numbers["said"]
    shown = [f"spectrum, {depth}" for depth in depths]
    shown += [name for name in said if name.startswith("untrained, ")][-1:]
    shown += ["power spectrum", "features"]
    wordnet = torch.from_numpy(squareform(numbers["wordnet"]["path"]))
    order = list(average_tree(wordnet).order)
    pictures = {"WordNet, path": wordnet.numpy()}
    pictures |= {name: squareform(said[name]["distances"]) for name in shown}
    columns = 4
    rows = -(-len(pictures) // columns)
    figure = Figure(figsize=(7.4, 2.0 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, matrix) in zip(grid, pictures.items(), strict=False):
        # Ranks, which is what is correlated.
        pairs = np.triu_indices(len(matrix), 1)
        ranks = np.zeros_like(matrix)
        ranks[pairs] = matrix[pairs].argsort().argsort() / len(pairs[0])
        ranks = (ranks + ranks.T)[np.ix_(order, order)]
        axes.imshow(ranks, cmap="gray")
        r = "" if name not in said else f" ({said[name]['path'][0]:+.2f})"
        axes.set_title(name + r, fontsize=8)
    for axes in grid:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def trees(numbers: dict[str, Any]) -> Figure:
    """The tree of the class spectra that agree best, beside WordNet's."""
    said = numbers["said"]
    names = [f"spectrum, {depth}" for depth in numbers["depths"]]
    best = max(names, key=lambda name: said[name]["path"][0])
    count = len(numbers["classes"])
    figure = Figure(figsize=(7.4, 0.16 * count + 0.9), layout="constrained")
    panels = figure.subplots(1, 2)
    sorts = sorted(set(numbers["superclasses"]))
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.7, len(sorts)))
    colour = dict(zip(numbers["classes"], numbers["superclasses"], strict=True))
    for axes, title, distances in (
        (panels[0], "WordNet, path distances", squareform(numbers["wordnet"]["path"])),
        (panels[1], f"class-mean log {best}", squareform(said[best]["distances"])),
    ):
        tree = average_tree(torch.tensor(distances))
        hierarchy.dendrogram(
            tree.linkage, orientation="right", ax=axes, no_labels=False,
            labels=numbers["classes"], color_threshold=0, above_threshold_color="0.3",
            leaf_font_size=6,
        )  # fmt: skip
        axes.set_title(title, fontsize=8.5)
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="x", labelsize=7)
        for label in axes.get_yticklabels():
            label.set_color(shades[sorts.index(colour[label.get_text()])])
    handles = [
        mpl.lines.Line2D([], [], color=shade, linewidth=4, label=sort)
        for sort, shade in zip(sorts, shades, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=7)
    return figure


def superclasses(numbers: dict[str, Any]) -> Figure:
    """Mean spectra of superclasses, over the mean of all classes."""
    depths = numbers["depths"]
    sorts = sorted(set(numbers["superclasses"]))
    count = [numbers["superclasses"].count(sort) for sort in sorts]
    sorts = [sort for _, sort in sorted(zip(count, sorts, strict=True), reverse=True)][:8]
    figure = Figure(figsize=(7.4, 1.9 * -(-len(depths) // 2) + 0.6), layout="constrained")
    grid = figure.subplots(-(-len(depths) // 2), 2, sharex=True, squeeze=False)
    for axes, depth in zip(grid.ravel(), depths, strict=False):
        logs = np.log(np.array(numbers["means"][depth]))
        for position, sort in enumerate(sorts):
            mine = [i for i, one in enumerate(numbers["superclasses"]) if one == sort]
            shade = mpl.colormaps["viridis"](0.85 * position / max(1, len(sorts) - 1))
            axes.plot(
                np.arange(1, logs.shape[1] + 1), np.exp(logs[mine].mean(0) - logs.mean(0)),
                color=shade, linestyle=DASHES[position % len(DASHES)], linewidth=1.3,
                label=f"{sort} ({len(mine)})",
            )  # fmt: skip
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        axes.set_title(depth, fontsize=9)
    for axes in grid[:, 0]:
        axes.set_ylabel("σᵢ / mean of all")
    for axes in grid[-1]:
        axes.set_xlabel("index i")
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5
    )
    return figure
