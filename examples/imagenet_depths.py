"""Figures 8 and 9 of Mototake & Ikegami on real photos and weights, and steps along tangents.

You learn: whether AlexNet's spectra and vectors are as the paper says, and what tangent steps do.

    python examples/imagenet_depths.py --quick            # two photos: a minute or two
    python examples/imagenet_depths.py                    # 16 photos, top 500: hours
    python examples/imagenet_depths.py --redraw           # the figures again, from what is stored
    python examples/imagenet_depths.py --redraw examples/results/imagenet-depths.npz    # from ours

The network of figures 8 and 9 is AlexNet up to its last pooling; its weights are fetched (see
`published_networks.py`). The photos are ImageNet's, of the package foolbox. For steps, whose effect
on the class is of interest, the network is EfficientNet-Lite0.

Each photo at each depth is one file in --out, and is not computed again; `--share 0/2` and
`--share 1/2` halve the work between two processes. Prints every number behind the figures; they
are stored, without photos, in RUN/numbers.npz.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagenet_figures
import numpy as np
import torch
from imagenet_measure import DISTANCES, SETS, spectrum_and_spread, steps
from imagenet_store import keep_depths, kept_depths
from imagenet_tables import Found, tell_spectra, tell_spread, tell_steps
from published_networks import alexnet_convolutions, resnet50

from jvpsvd import JacobianOperator
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import Model, layer_map, load_model, weights_sha256
from jvpsvd.operators import Trace


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    photos: int = 16
    k: int = 500
    depths: tuple[str, ...] = ("relu1", "relu2", "relu3", "relu4", "relu5", "pool5")
    stepped: tuple[str, ...] = ("_blocks.9", "_blocks.15", "output")
    tangent_k: int = 50
    directions: int = 10


QUICK = Plan(2, 100, ("relu2", "relu4", "pool5"), ("_blocks.9", "output"), 20, 5)
NETWORKS: dict[str, Callable[[], Model]] = {
    "alexnet": lambda: _model("alexnet", *alexnet_convolutions()),
    "resnet50": lambda: _model("resnet50", *resnet50()),
    "efficientnet-lite0": lambda: load_model("efficientnet-lite0"),
}


def compute(plan: Plan, network: str, out: Path, share: tuple[int, int]) -> None:
    """Do this share of what is not in `out` yet, the cheaper, deeper depths first."""
    photos = list(enumerate(demo_photos()[: plan.photos]))[share[0] :: share[1]]
    for kind, name, depths in (
        ("steps", "efficientnet-lite0", plan.stepped),
        ("spectra", network, plan.depths),
    ):
        model = NETWORKS[name]()
        points = [(i, decode_photo(p.file.read_bytes(), model.photo_input)) for i, p in photos]
        for depth in reversed(depths):
            trace = Trace(layer_map(model.module, points[0][1], to=depth)[0], points[0][1])
            for number, x in points:
                file = out / f"{kind}-{depth}-{number:02}.npz"
                if file.exists():
                    continue
                J = JacobianOperator.from_linear_map(trace.at(x)[0])
                if kind == "steps":
                    found = steps(model, J, x, depth, plan.tangent_k, plan.directions)
                else:
                    found = {**spectrum_and_spread(J, x, plan.k), "photo": _shown(x)}
                _write(file, found)
                print(file.stem, flush=True)


def stored(out: Path, kind: str, depths: tuple[str, ...]) -> Found:
    """Return what `out` holds of a kind, depth by depth."""
    found: Found = {}
    for depth in depths:
        files = sorted(out.glob(f"{kind}-{depth}-[0-9][0-9].npz"))
        if files:
            found[depth] = [dict(np.load(file)) for file in files]
    return found


def _write(file: Path, found: dict[str, np.ndarray]) -> None:
    partial = file.with_suffix(".part.npz")
    np.savez_compressed(partial, **found)
    partial.replace(file)


def _shown(x: torch.Tensor) -> np.ndarray:
    """Return the photo as it can be drawn, (H, W, 3) between 0 and 1."""
    low, high = x.amin(), x.amax()
    return ((x[0] - low) / (high - low)).permute(1, 2, 0).half().numpy()


def _model(name: str, module: torch.nn.Module, photo_input: object) -> Model:
    return Model(name, module, photo_input, weights_sha256(module))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two photos, fewer depths, k = 100")
    parser.add_argument("--network", choices=list(NETWORKS), default="alexnet")
    parser.add_argument("--depths", help="other depths of it, with commas between")
    parser.add_argument("--photos", type=int, help="how many")
    parser.add_argument("-k", type=int, help="singular triplets")
    parser.add_argument("--share", default="0/1", help="i/n: part i of n, counted from 0")
    parser.add_argument("--out", type=Path, default=Path("imagenet-depths"))
    parser.add_argument(
        "--redraw", type=Path, nargs="?", const=Path(), metavar="NUMBERS",
        help="only tell and draw what is stored in --out, or in a file numbers.npz",
    )  # fmt: skip
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan()
    plan = Plan(
        options.photos or plan.photos,
        options.k or plan.k,
        tuple(options.depths.split(",")) if options.depths else plan.depths,
        plan.stepped,
        plan.tangent_k,
        plan.directions,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    if options.redraw is None:
        part, parts = (int(number) for number in options.share.split("/"))
        compute(plan, options.network, options.out, (part, parts))
    if options.redraw and options.redraw.is_file():
        kinds = kept_depths(options.redraw)
    else:
        kinds = {"spectra": stored(options.out, "spectra", plan.depths)}
        kinds["steps"] = stored(options.out, "steps", plan.stepped)
        keep_depths(kinds, options.out / "numbers.npz")
    spectra, moved = kinds.get("spectra", {}), kinds.get("steps", {})
    paragraphs = [tell_spectra(spectra), tell_spread(spectra)] if spectra else []
    paragraphs += [tell_steps(moved, DISTANCES, SETS)] if moved else []
    for lines in paragraphs:
        print(*lines, sep="\n", end="\n\n")
    for file in imagenet_figures.draw_all(spectra, moved, DISTANCES, options.out):
        print(f"figure: {file}")


if __name__ == "__main__":
    main()
