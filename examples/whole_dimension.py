"""How many singular values are ≥ 1 at each depth: figure 8 of the paper to the full rank.

You learn: how to count all σ ≥ 1 of a large network, and how much of the count training makes.

    python examples/whole_dimension.py --network alexnet --photos 1    # two minutes
    python examples/whole_dimension.py --redraw examples/results/whole-dimension.json

The paper counts σ ≥ 1 as the dimension of the data manifold, at depths where an ImageNet network
has 1000 to 150 528 values; 500 of them are all ≥ 1. Here all are counted, by random vectors
(`spectral_density`), with bounds and errors, for the trained network and for one with random
weights (Kaiming's). The networks are AlexNet's convolutions (see `published_networks.py`) and
EfficientNet-Lite0, the photos ImageNet's, of the package foolbox.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from imagenet_controls import random_weights
from published_networks import alexnet_convolutions
from torch import Tensor

from jvpsvd import JacobianOperator, spectral_density
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import layer_map, load_model

NETWORKS = {
    "alexnet": ("relu1", "relu2", "relu3", "relu4", "relu5", "pool5"),
    "efficientnet-lite0": ("_blocks.2", "_blocks.5", "_blocks.9", "_blocks.15", "output"),
}
PROBES, STEPS = 8, 60
GRID = np.geomspace(1e-4, 1e3, 71)


def photos_and_module(network: str, count: int) -> tuple[list[Tensor], torch.nn.Module]:
    """Return the first photos as inputs of a network, and the trained network."""
    if network == "alexnet":
        module, photo_input = alexnet_convolutions()
    else:
        model = load_model(network)
        module, photo_input = model.module, model.photo_input
    inputs = [decode_photo(photo.file.read_bytes(), photo_input) for photo in demo_photos()[:count]]
    return inputs, module


def measure(network: str, count: int) -> list[dict[str, object]]:
    """Return a row for each network, depth and photo."""
    inputs, trained = photos_and_module(network, count)
    control = random_weights(copy.deepcopy(trained), torch.cat(inputs))
    rows = []
    for depth in NETWORKS[network]:
        for kind, module in (("trained", trained), ("random", control)):
            for photo, x in enumerate(inputs):
                J = JacobianOperator(layer_map(module, x, to=depth)[0], x)
                spectrum = spectral_density(J, PROBES, STEPS)
                curve = spectrum.counts(GRID)
                row = {
                    **{"network": network, "depth": depth, "kind": kind, "photo": photo},
                    "size": spectrum.size,
                    "counts": [_rounded(column) for column in _columns(curve)],
                }
                for name, found in (
                    ("count", spectrum.count(1.0)),
                    ("participation", spectrum.participation_ratio()),
                    ("entropy", spectrum.effective_rank()),
                ):
                    numbers = (found.value, found.low, found.high, found.standard_error)
                    row[name] = _rounded(numbers)
                    print(f"{depth:10} {kind:8} photo {photo}: {name} {found.in_words()}")
                print(f"{'':10} of {spectrum.size}", flush=True)
                rows.append(row)
    return rows


def draw(rows: list[dict[str, object]], out: Path) -> None:
    """Draw the spectra of the first photo to the full rank, and the counts by depth."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    networks = [name for name in NETWORKS if any(row["network"] == name for row in rows)]
    figure, axes = plt.subplots(
        len(networks), 3, figsize=(11, 3.3 * len(networks)), layout="constrained", squeeze=False
    )
    for name, (spectra, random, counts) in zip(networks, axes, strict=True):
        depths = NETWORKS[name]
        colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(depths)))
        for ax, kind in ((spectra, "trained"), (random, "random")):
            for depth, color in zip(depths, colors, strict=True):
                row = next(
                    r
                    for r in rows
                    if (r["network"], r["depth"], r["kind"], r["photo"]) == (name, depth, kind, 0)
                )
                value, low, high, _ = (np.array(column) for column in row["counts"])
                some = high >= 0.5
                band = low[some].clip(0.5), high[some]
                ax.fill_betweenx(GRID[some], *band, color=color, alpha=0.25, linewidth=0)
                seen = value >= 0.5
                name_of = depth.lstrip("_")  # matplotlib hides labels that begin with "_"
                ax.plot(value[seen], GRID[seen], color=color, linewidth=1.2, label=name_of)
            ax.axhline(1, color="black", linewidth=0.6, linestyle=":")
            ax.set(xscale="log", yscale="log", xlabel="index i", title=f"{name}, {kind}")
            ax.set_ylim(1e-3, 1e3)
        spectra.set_ylabel("σᵢ")
        spectra.legend(frameon=False, fontsize=7)
        for kind, color in (("trained", "#2563eb"), ("random", "#c2410c")):
            middle, low, high = _by_depth(rows, name, kind)
            index = np.arange(len(depths))
            counts.plot(index, middle, "o-", color=color, markersize=4, label=kind)
            counts.fill_between(index, low, high, color=color, alpha=0.2)
            counts.set_xticks(index, depths, rotation=40, ha="right")
        counts.set(yscale="log", title="number of σ ≥ 1")
        counts.legend(frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=130)
    print(f"figure: {out}")


def _by_depth(rows: list[dict[str, object]], network: str, kind: str) -> list[np.ndarray]:
    """Return count and bounds by depth, means over photos, at least 0.5."""
    means = []
    for depth in NETWORKS[network]:
        mine = [
            row["count"]
            for row in rows
            if (row["network"], row["depth"], row["kind"]) == (network, depth, kind)
        ]
        means.append(np.mean(np.array(mine), axis=0)[:3])
    return [np.clip(column, 0.5, None) for column in np.array(means).T]


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]


def _columns(curve: object) -> tuple[np.ndarray, ...]:
    return curve.value, curve.low, curve.high, curve.standard_error


def main() -> None:
    """Measure, store and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=[*NETWORKS, "both"], default="both")
    parser.add_argument("--photos", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("whole-dimension"))
    parser.add_argument("--redraw", type=Path, help="draw what a file holds, and measure nothing")
    options = parser.parse_args()
    if options.redraw:
        rows = json.loads(options.redraw.read_text())
    else:
        rows = []
        for network in NETWORKS if options.network == "both" else [options.network]:
            rows += measure(network, options.photos)
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "whole-dimension.json").write_text(json.dumps(rows))
    draw(rows, options.out / "whole-dimension.png")


if __name__ == "__main__":
    main()
