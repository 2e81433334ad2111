"""The figures of `mnist_dbn.py`, each drawn by one function from stored numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from jvpsvd.plot import style
from jvpsvd.plot.style import COLOURS

STATES = ("pre-trained", "fine-tuned")
DASHES = [style.line_style(number) for number in range(len(style.DASHES))]
SMALLEST = 1e-6
"""Share of the largest value below which spectra are not drawn: rounding of float32."""


def draw_all(numbers: dict[str, Any], pictures: dict[str, np.ndarray], out: Path) -> list[Path]:
    """Draw every figure; return the files."""
    made = {
        "figure-6-spectra": lambda: spectra(numbers),
        "figure-6-vectors": lambda: vectors(pictures),
        "figure-7-tangents": lambda: tangents(numbers),
        "coordinates": lambda: coordinates(numbers),
        "paths": lambda: paths(numbers),
    }
    return [file for name, draw in made.items() for file in saved(draw, out / name)]


def spectra(numbers: dict[str, Any]) -> Figure:
    """Singular values from the input to each layer, and of each layer alone: means, deviations."""
    figure = Figure(figsize=(7.4, 6.0), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, state in enumerate(STATES):
        entries = numbers[state]
        whole = {name: e["spectrum"] for name, e in entries["layers"].items()}
        for row, (title, curves) in enumerate(
            (("from the input", whole), ("each layer alone", entries["single"]))
        ):
            axes = grid[row, column]
            for position, (name, e) in enumerate(curves.items()):
                mean, std = np.array(e["mean"]), np.array(e["std"])
                keep = mean > SMALLEST * mean[0]
                index = np.arange(1, len(mean) + 1)[keep]
                mean, std = mean[keep], std[keep]
                label = f"{name} ({e['count'][0]:.1f} ≥ 1)"
                line = _line(axes, index, mean, position, label)
                axes.fill_between(
                    index, np.maximum(mean - std, mean / 100), mean + std,
                    color=line.get_color(), alpha=0.18, linewidth=0,
                )  # fmt: skip
            axes.axhline(1, color="0.5", linewidth=0.8, zorder=0)
            axes.set(xscale="log", yscale="log", title=f"{state}, {title}")
            axes.legend(fontsize=7.5, loc="lower left")
    for axes in grid[:, 0]:
        axes.set_ylabel("singular value σᵢ")
    for axes in grid[1]:
        axes.set_xlabel("index i")
    return figure


def vectors(pictures: dict[str, np.ndarray]) -> Figure:
    """Leading right singular vectors of one digit as pictures: states and layers down, i across."""
    rows = [name for name in pictures if name != "digits"]
    count = pictures[rows[0]].shape[1]
    figure = Figure(figsize=(7.4, 0.82 * len(rows) + 0.3), layout="constrained")
    grid = figure.subplots(len(rows), count + 1)
    for line, name in zip(grid, rows, strict=True):
        line[0].imshow(_square(pictures["digits"][0]), cmap="gray_r")
        for axes, v in zip(line[1:], pictures[name][0], strict=True):
            extent = np.abs(v).max()
            axes.imshow(_square(v), cmap="RdBu_r", vmin=-extent, vmax=extent)
        for axes in line:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(
            name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=8
        )
    for i, axes in enumerate(grid[0][1:], start=1):
        axes.set_title(f"v{i}", fontsize=8)
    return figure


def tangents(numbers: dict[str, Any]) -> Figure:
    """Share of each tangent's energy in the top d right singular vectors, against controls."""
    layers = list(numbers[STATES[1]]["layers"])
    figure = Figure(figsize=(7.4, 1.7 * len(layers) + 0.6), layout="constrained")
    grid = figure.subplots(len(layers), 2, sharex=True, sharey=True, squeeze=False)
    handles: dict[str, Any] = {}
    for column, state in enumerate(STATES):
        for axes, name in zip(grid[:, column], layers, strict=True):
            axes.set_title(f"{state}, {name}", fontsize=9)
            axes.set(xscale="log", ylim=(0, 1.02), xlim=(1, 784))
            if name not in numbers[state]["layers"]:
                axes.text(0.5, 0.5, "no such layer", ha="center", transform=axes.transAxes)
                continue
            e = numbers[state]["layers"][name]["tangents"]
            for position, (what, curve) in enumerate(e["curves"].items()):
                handles[what] = _line(axes, np.arange(1, len(curve) + 1), curve, position, what)
            d = np.arange(1, len(e["random"]) + 1)
            handles["random directions"] = axes.plot(d, e["random"], color="0.6", linewidth=1)[0]
            pca = numbers["pca"]
            handles["PCA of the class, all tangents"] = axes.plot(
                np.arange(1, len(pca) + 1), pca, color="0.3", linewidth=1, linestyle=(0, (1, 2))
            )[0]
    for axes in grid[:, 0]:
        axes.set_ylabel("share of energy")
    for axes in grid[-1]:
        axes.set_xlabel("dimension d")
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=7.5
    )
    return figure


def coordinates(numbers: dict[str, Any]) -> Figure:
    """Overlap of singular spaces at two digits: left and right, within and across classes."""
    figure = Figure(figsize=(7.4, 3.2), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    for axes, state in zip(grid, STATES, strict=True):
        layers = numbers[state]["layers"]
        positions = np.arange(len(layers))
        for number, (side, kind) in enumerate(
            (side, kind) for side in ("left", "right") for kind in ("within", "across", "random")
        ):
            # A space that is the whole of R^m overlaps with every other: that says nothing.
            says = [e[side]["random"] < 1 for e in layers.values()]
            values = [
                e[side][kind] if s else np.nan for e, s in zip(layers.values(), says, strict=True)
            ]
            axes.plot(
                positions, values, color=COLOURS[1] if side == "left" else COLOURS[2],
                linestyle={"within": "solid", "across": DASHES[1], "random": DASHES[3]}[kind],
                marker="os^"[number % 3], markersize=4, linewidth=1.4,
                label=f"{side}, {kind}" + (" a class" if kind == "within" else ""),
            )  # fmt: skip
        axes.set(xticks=positions, xticklabels=list(layers), ylim=(0, 1.02), title=state)
    grid[0].set_ylabel(f"mean overlap of top {numbers['dimension']} spaces")
    figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7.5
    )
    return figure


def paths(numbers: dict[str, Any]) -> Figure:
    """How spaces turn along a rotated and along a straight path, layer by layer."""
    figure = Figure(figsize=(7.4, 5.2), layout="constrained")
    grid = figure.subplots(2, 2, sharey=True)
    for row, (path, label) in enumerate(
        (("rotated", "digit turned by (degrees)"), ("straight", "way to another digit (%)"))
    ):
        for axes, state in zip(grid[row], STATES, strict=True):
            for number, (name, e) in enumerate(numbers[state]["layers"].items()):
                for side, dashes in (("left", "solid"), ("right", DASHES[1])):
                    if e[side]["random"] == 1:
                        continue  # the whole of R^m, which does not turn
                    values = e[path][side]
                    far = 60 if path == "rotated" else 100
                    axes.plot(
                        np.linspace(0, far, len(values)), values,
                        color=COLOURS[number], linestyle=dashes, linewidth=1.4,
                        label=f"{name}, {side}",
                    )  # fmt: skip
            axes.set(xlabel=label, title=state, ylim=(0, 1.02))
        grid[row, 0].set_ylabel("overlap with the beginning")
    figure.legend(
        *grid[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7.5
    )
    return figure


def _line(axes: Any, x: Any, y: Any, position: int, label: str) -> Any:
    return axes.plot(
        x, y, color=COLOURS[position % len(COLOURS)], linestyle=DASHES[position % len(DASHES)],
        linewidth=1.5, label=label,
    )[0]  # fmt: skip


def _square(v: np.ndarray) -> np.ndarray:
    side = round(len(v) ** 0.5)
    return v.reshape(side, side)


def saved(draw: Callable[[], Figure], stem: Path) -> list[Path]:
    """Draw a figure and write it as PNG and SVG."""
    with mpl.rc_context(style.SETTINGS):
        figure = draw()
        files = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
        figure.savefig(files[0], dpi=160, metadata={"Software": None})
        figure.savefig(files[1], metadata={"Date": None})
    return files
