"""Do spectra of the Jacobian hold the hierarchy of meanings? Claim I4 of Mototake & Ikegami.

You learn: how to hold distances between spectra against a hierarchy, with tests and controls.

    python examples/imagenet_classes.py --shards SHARDS --out RUN          # everything
    python examples/imagenet_classes.py --shards SHARDS --per-class 2      # fewer photos
    python examples/imagenet_classes.py --shards SHARDS --quick            # 12 classes, minutes
    python examples/imagenet_classes.py --quick             # without shards: 20 photos of foolbox
    python examples/imagenet_classes.py --redraw RUN/classes.json          # or ours, in results/

Singular values of EfficientNet-Lite0 at every photo and depth (surveys in RUN/trained and
RUN/untrained, which continue where they stopped) become class-mean log spectra, and distances
between classes; these are held against distances in WordNet by permutation tests. Beside them:
shuffled labels, the untrained network, mean colours, power spectra, the network's last features,
and the weights of its last layer. Prints every number behind the figures; they are stored in
RUN/classes.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import class_figures
import numpy as np
import torch
from imagenet_controls import (
    Chosen,
    class_spaces,
    decoded,
    feature_rows,
    head_distances,
    pixel_rows,
    untrained,
)
from imagenet_store import condensed, keep_classes
from imagenet_whole_spectra import whole_rows

from jvpsvd import survey
from jvpsvd.data import demo_shards, find_shards, walk
from jvpsvd.data.wordnet import SUPERCLASSES, ilsvrc_hierarchy
from jvpsvd.geometry import (
    average_tree,
    bootstrap_interval,
    class_means,
    log_spectra,
    mantel,
    nearest_class,
    row_distances,
    space_distances,
    variance_ratio,
)
from jvpsvd.networks import Model, load_model

TOL = 1e-4
SHUFFLES = 20
CONTROLS = ("mean colour", "power spectrum", "features", "rows of the head")


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    depths: tuple[str, ...] = ("_blocks.3", "_blocks.9", "_blocks.15", "output")
    untrained: tuple[str, ...] = ("output",)
    k: int = 50
    classes: int | None = None
    per_class: int | None = None
    space: int | None = 10
    """Dimension of the class spaces at the logits."""


QUICK = Plan(("_blocks.15", "output"), ("output",), 20, 12, 3, 5)


def chosen_photos(shards: str | Sequence[Path], plan: Plan) -> Chosen:
    """Return the photos of the first classes, the first few of each."""
    every = [(shard, s) for shard in _listed(shards) for s in walk(shard) if not s.problem]
    labels = sorted({sample.label for _, sample in every})[: plan.classes]
    kept: list[Any] = []
    for label in labels:
        kept += [pair for pair in every if pair[1].label == label][: plan.per_class]
    return kept


def _listed(shards: str | Sequence[Path]) -> Sequence[Any]:
    return find_shards(shards) if isinstance(shards, str) else shards


def spectra(
    shards: str | Sequence[Path],
    model: Model,
    depths: Sequence[str],
    photos: Chosen,
    plan: Plan,
    out: Path,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the singular values of these photos at every depth, and rows of whole spectra.

    A survey in `out` computes them.
    """
    photos_of = survey.PhotoSelection()
    if plan.classes is not None or plan.per_class is not None:
        labels = sorted({sample.label for _, sample in photos})
        names = [str(label) for label in labels]
        photos_of = survey.PhotoSelection(names, plan.per_class, choice="first")
    spec = survey.Spec(
        shards=shards, model=model, layers=depths, k=plan.k, tol=TOL, out=out, photos=photos_of
    )
    survey.run(spec)
    results = survey.open(out)
    values: dict[str, np.ndarray] = {}
    rows: dict[str, np.ndarray] = {}
    for depth in depths:
        there = results.spectra(depth)
        names = there.samples.select(["shard", "key"]).to_pylist()
        row_of = {(row["shard"], row["key"]): i for i, row in enumerate(names)}
        order = np.array([row_of[s.shard, s.key] for _, s in photos])
        values[depth] = there.s[order]
        whole, (least, rank) = whole_rows(results, depth, order)
        rows |= {f"{name}, {depth}": one for name, one in whole.items()}
        print(f"{depth}: whole spectra down to σ = {least:.3g}, up to rank {rank}")
    return values, rows


def compared(
    rows: np.ndarray | None, distances: torch.Tensor, labels: Sequence[Any],
    wordnet: dict[str, torch.Tensor], controls: dict[str, torch.Tensor],
) -> dict[str, Any]:  # fmt: skip
    """Return everything that is said of one representation of the classes."""
    said: dict[str, Any] = {"distances": condensed(distances)}
    for kind, meaning in wordnet.items():
        test, interval = mantel(distances, meaning), bootstrap_interval(distances, meaning)
        said[kind] = [test.correlation, test.p_value, interval.low, interval.high]
    tree = average_tree(distances)
    said["cophenetic"] = tree.correlation
    test = mantel(tree.cophenetic, wordnet["path"])
    said["tree"] = [test.correlation, test.p_value]
    said["partial"] = {
        name: [test.correlation, test.p_value]
        for name, control in controls.items()
        if not torch.equal(control, distances)
        for test in [mantel(distances, wordnet["path"], control=control)]
    }
    if rows is not None and len(labels) > len(set(labels)):
        one, variance = nearest_class(rows, labels), variance_ratio(rows, labels, permutations=999)
        said["nearest"] = [one.precision, one.chance, one.null_deviation, one.p_value]
        said["variance"] = [variance.share, variance.chance_share, variance.p_value]
        generator = torch.Generator().manual_seed(0)
        shuffled = []
        for _ in range(SHUFFLES):
            order = torch.randperm(len(labels), generator=generator)
            means = class_means(rows[order.numpy()], labels)
            again = [means.classes.index(label) for label in dict.fromkeys(labels)]
            noise = row_distances(means.means[again])
            shuffled.append(mantel(noise, wordnet["path"], permutations=1).correlation)
        said["shuffled"] = [float(np.mean(shuffled)), float(np.std(shuffled))]
    return said


def study(shards: str | Sequence[Path], plan: Plan, out: Path) -> dict[str, Any]:
    """Compute everything; return the numbers behind the figures."""
    model, hierarchy = load_model("efficientnet-lite0"), ilsvrc_hierarchy()
    photos = chosen_photos(shards, plan)
    labels = [int(sample.label) for _, sample in photos]
    classes = list(dict.fromkeys(labels))
    wnids = [hierarchy.classes[label] for label in classes]
    wordnet = {
        "path": hierarchy.distance_matrix(wnids, "path"),
        "wu-palmer": hierarchy.distance_matrix(wnids, "wu-palmer"),
    }
    print(f"{len(photos)} photos of {len(classes)} classes")
    values, whole = spectra(shards, model, plan.depths, photos, plan, out / "trained")
    control = untrained(model, photos)
    noise, whole_noise = spectra(shards, control, plan.untrained, photos, plan, out / "untrained")
    rows = {f"spectrum, {d}": log_spectra(s, floor=TOL).numpy() for d, s in values.items()}
    rows |= {
        f"shape, {d}": log_spectra(s, floor=TOL, shape=True).numpy() for d, s in values.items()
    }
    rows |= whole
    rows |= {f"untrained, {d}": log_spectra(s, floor=TOL).numpy() for d, s in noise.items()}
    rows |= {f"untrained {name}": one for name, one in whole_noise.items()}
    pixels = [pixel_rows(x) for _, x in decoded(photos, model)]
    rows |= {name: np.stack([one[name] for one in pixels]) for name in pixels[0]}
    rows["features"] = feature_rows(model, photos)
    rows["untrained features"] = feature_rows(control, photos)
    distances = {n: row_distances(class_means(r, labels).means) for n, r in rows.items()}
    for depth in plan.depths:
        means = class_means(rows[f"spectrum, {depth}"], labels).means
        distances[f"wasserstein, {depth}"] = row_distances(means, "wasserstein")
    distances["rows of the head"] = head_distances(model, classes)
    if plan.space:
        spaces = class_spaces(model, photos, "output", plan.k, plan.space, out)
        for side, bases in spaces.items():
            distances[f"{side} spaces, output"] = space_distances(
                [torch.from_numpy(b) for b in bases]
            )
    held = {name: distances[name] for name in CONTROLS}
    said = {
        name: compared(rows.get(name), d, labels, wordnet, held) for name, d in distances.items()
    }
    means = {d: class_means(rows[f"spectrum, {d}"], labels).means.exp().tolist() for d in values}
    above = [hierarchy.superclass(wnid, SUPERCLASSES) for wnid in wnids]
    return {
        "photos": len(photos),
        "classes": [hierarchy.name(wnid) for wnid in wnids],
        "wnids": wnids,
        "superclasses": [hierarchy.name(one) if one else "other" for one in above],
        "wordnet": {kind: condensed(matrix) for kind, matrix in wordnet.items()},
        "k": plan.k,
        "depths": list(plan.depths),
        "means": means,
        "said": said,
    }


def tell(numbers: dict[str, Any]) -> None:
    """Print every number behind the figures."""
    print(f"\n{len(numbers['classes'])} classes, {numbers['photos']} photos, k = {numbers['k']}")
    print(
        "correlation with WordNet's path distances (p; 95 % over classes), Wu–Palmer (p), of the "
        "tree (p); shuffled labels"
    )
    for name, said in numbers["said"].items():
        path, other, tree = said["path"], said["wu-palmer"], said["tree"]
        shuffled = said.get("shuffled")
        noise = "" if shuffled is None else f"   {shuffled[0]:+.2f} ± {shuffled[1]:.2f}"
        print(
            f"  {name:24} {path[0]:+.3f} ({path[1]:.4f}; {path[2]:+.2f} to {path[3]:+.2f})   "
            f"{other[0]:+.3f} ({other[1]:.4f})   {tree[0]:+.3f} ({tree[1]:.4f}){noise}"
        )
    print("\npartial correlation with WordNet's path distances (p), what explains both taken off")
    for name, said in numbers["said"].items():
        parts = [f"{c}: {r:+.3f} ({p:.4f})" for c, (r, p) in said["partial"].items()]
        print(f"  {name:24} {'   '.join(parts)}")
    print(
        "\nphotos by classes: nearest class mean (chance; p), share of variance between (chance; p)"
    )
    for name, said in numbers["said"].items():
        if "nearest" in said:
            one, variance = said["nearest"], said["variance"]
            print(
                f"  {name:24} {one[0]:.3f} ({one[1]:.3f}; {one[3]:.3f})   {variance[0]:.3f} "
                f"({variance[1]:.3f}; {variance[2]:.3f})   cophenetic {said['cophenetic']:.2f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", help="folder, pattern or URL of ILSVRC photos [20 of foolbox]")
    parser.add_argument("--quick", action="store_true", help="12 classes of 3 photos, k = 20")
    parser.add_argument("--depths", nargs="+", default=Plan.depths, metavar="DEPTH")
    parser.add_argument("--per-class", type=int, help="photos of each class [all]")
    parser.add_argument("--out", type=Path, default=Path("imagenet-classes"))
    parser.add_argument(
        "--redraw", type=Path, metavar="FILE", help="only tell and draw what it holds"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.redraw or options.out / "classes.json"
    if not options.redraw:
        shards = options.shards or demo_shards(options.out / "demo")
        plan = QUICK if options.quick else Plan(tuple(options.depths), per_class=options.per_class)
        keep_classes(study(shards, plan, options.out), file)
    numbers = json.loads(file.read_text())
    tell(numbers)
    for drawn in class_figures.draw_all(numbers, options.out):
        print(f"figure: {drawn}")


if __name__ == "__main__":
    main()
