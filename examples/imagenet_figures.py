"""The figures of `imagenet_depths.py`, each drawn by one function from stored numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from imagenet_tables import Found, band, collect
from matplotlib.figure import Figure
from mnist_figures import DASHES, saved

from jvpsvd.geometry import pixel_energy, random_spread, spread_trend

# Okabe & Ito's colours, from dark to light, so that grey print keeps them apart.
COLOURS = {
    "tangent": "#000000",
    "leading": "#0072B2",
    "normal": "#D55E00",
    "random": "#56B4E9",
    "adversarial": "#E69F00",
}
MEASURES = {"participation": "pixels, 1/Σp²", "entropy": "pixels, exp(entropy)", "radius": "radius"}


def draw_all(spectra: Found, moved: Found, distances: Sequence[float], out: Path) -> list[Path]:
    """Draw every figure for which there are numbers; return the files."""
    made: dict[str, Callable[[], Figure]] = {}
    if spectra:
        made["figure-8-spectra"] = lambda: spectra_of_depths(spectra)
        if "pictures" in next(iter(spectra.values()))[0]:
            made["figure-9-vectors"] = lambda: vectors(spectra)
        made["figure-9-spread"] = lambda: spread(spectra)
    if moved:
        made["steps"] = lambda: steps(moved, distances)
    return [file for name, draw in made.items() for file in saved(draw, out / name)]


def spectra_of_depths(spectra: Found) -> Figure:
    """Mean spectra of all depths with their deviation over photos."""
    figure = Figure(figsize=(7.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    largest = max(len(photos) for photos in spectra.values())
    for position, (depth, photos) in enumerate(spectra.items()):
        s = collect(photos, "s")
        index, mean, deviation = np.arange(1, s.shape[1] + 1), s.mean(0), s.std(0)
        energy = collect(photos, "energy share").mean()
        fewer = (
            f"; of {len(photos)} photo{'s' * (len(photos) > 1)}" if len(photos) < largest else ""
        )
        label = f"{depth} ({int(photos[0]['shape'][0])} units; {energy:.0%} of ‖J‖²{fewer})"
        line = _line(axes, index, mean, position, len(spectra), label)
        axes.fill_between(
            index, np.maximum(mean - deviation, mean / 100), mean + deviation,
            color=line.get_color(), alpha=0.18, linewidth=0,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="index i", ylabel="singular value σᵢ")
    low, high = axes.get_ylim()
    if low < 1 < high:
        axes.axhline(1, color="0.5", linewidth=0.8, zorder=0)
    axes.set_title(
        f"from the photo to each depth: mean of {largest} photos ± deviation", fontsize=9
    )
    axes.legend(fontsize=7.5, loc="lower left")
    return figure


def vectors(spectra: Found) -> Figure:
    """The photo, and where the right vectors of the largest and the smallest value live."""
    figure = Figure(figsize=(7.4, 1.55 * len(spectra) + 0.3), layout="constrained")
    grid = figure.subplots(len(spectra), 5, squeeze=False)
    for row, (depth, photos) in zip(grid, spectra.items(), strict=True):
        photo = photos[0]
        first, last = photo["pictures"].astype(np.float64)
        row[0].imshow(photo["photo"].astype(np.float64))
        row[0].set_ylabel(depth)
        for axes, v in zip(row[1:3], (first, last), strict=True):
            axes.imshow(0.5 + 0.5 * (v / np.abs(v).max()).transpose(1, 2, 0))
        for axes, v in zip(row[3:], (first, last), strict=True):
            energy = pixel_energy(v.reshape(-1), v.shape).numpy()
            axes.imshow((energy / energy.max()) ** 0.5, cmap="gray_r", vmin=0, vmax=1)
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    k = len(next(iter(spectra.values()))[0]["s"])
    titles = ("photo", "v1", f"v{k}", "energy of v1 (root)", f"energy of v{k} (root)")
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=8.5)
    return figure


def spread(spectra: Found) -> Figure:
    """How spread out right vectors are, against the index of the singular value."""
    figure = Figure(figsize=(7.4, 3.4), layout="constrained")
    grid = figure.subplots(1, len(MEASURES))
    shape = next(iter(spectra.values()))[0]["image"].tolist()
    random, pixels = random_spread(shape), float(np.prod(shape[1:]))
    chance = {"participation": random.participation / pixels, "entropy": random.entropy / pixels}
    for axes, (name, label) in zip(grid, MEASURES.items(), strict=True):
        for position, (depth, photos) in enumerate(spectra.items()):
            values = collect(photos, name)
            trend = spread_trend(values, bins=min(25, values.shape[1]))
            line = _line(axes, trend.index, trend.mean, position, len(spectra), depth)
            axes.fill_between(
                trend.index, trend.mean - trend.error, trend.mean + trend.error,
                color=line.get_color(), alpha=0.18, linewidth=0,
            )  # fmt: skip
        axes.axhline(chance.get(name, 1.0), color="0.5", linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set(xlabel="index i", title=label, ylim=(0, None))
    grid[0].set_ylabel("share of the whole image")
    handles, labels = grid[0].get_legend_handles_labels()
    dotted = mpl.lines.Line2D([], [], color="0.5", linewidth=0.9, linestyle=(0, (1, 2)))
    figure.legend(
        [*handles, dotted], [*labels, "random vector"],
        loc="outside lower center", ncols=7, fontsize=7.5,
    )  # fmt: skip
    return figure


def steps(moved: Found, distances: Sequence[float]) -> Figure:
    """Change of each depth, and share of other classes, along five kinds of directions."""
    figure = Figure(figsize=(2.1 * len(moved) + 0.6, 4.6), layout="constrained")
    grid = figure.subplots(2, len(moved), sharex=True, sharey="row", squeeze=False)
    for column, (depth, photos) in zip(grid.T, moved.items(), strict=True):
        for position, (name, colour) in enumerate(COLOURS.items()):
            middle, low, high = band(collect(photos, f"{name} change"))
            line = {"color": colour, "linestyle": DASHES[position], "linewidth": 1.5}
            column[0].plot(distances, middle, label=name, **line)
            column[0].fill_between(distances, low, high, color=colour, alpha=0.15, linewidth=0)
            flips = collect(photos, f"{name} flipped").mean(1)
            mean, error = flips.mean(0), flips.std(0) / len(flips) ** 0.5
            column[1].plot(distances, mean, **line)
            column[1].fill_between(
                distances, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0
            )
        column[0].set(xscale="log", yscale="log", title=depth)
        column[1].set(xscale="log", xlabel="length of the step", ylim=(-0.02, 1.02))
    grid[0, 0].set_ylabel("change of the depth / size")
    grid[1, 0].set_ylabel("share of other classes")
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8
    )
    return figure


def _line(axes: Any, x: Any, y: Any, position: int, count: int, label: str) -> Any:
    shade = mpl.colormaps["viridis"](0.85 * position / max(1, count - 1))
    dashes = DASHES[position % len(DASHES)]
    return axes.plot(x, y, color=shade, linestyle=dashes, linewidth=1.5, label=label)[0]
