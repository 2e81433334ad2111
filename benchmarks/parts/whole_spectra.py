"""Whole spectra of trained networks, estimated, beside all their values by a dense SVD.

    python -m benchmarks whole_spectra [--problem lite0/output minilm cnn] [-k 50 200]

lite0/output: EfficientNet-Lite0's logits at a photo, 1000 values. minilm: six layers of MiniLM at 8
tokens, hidden states by embeddings, 3072 values. cnn: a convolutional layer with random weights,
2048 values. A row has the true count of σ ≥ τ, and what a solve for k values, or 16 vectors of
`spectral_density` in 40 steps, say of it; the last thresholds are the participation ratio and the
entropy. The last line says how many 95 % intervals hold the truth.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.problems.networks import (
    UnavailableError,
    lite0,
    make_network_problem,
    minilm_encoder,
)
from benchmarks.problems.problem import JacobianProblem
from benchmarks.publish.tables import table
from jvpsvd import spectral_density, svds
from jvpsvd.svd.estimate import Estimate
from jvpsvd.svd.spectrum import Spectrum

SHARES = (0.1, 0.03, 0.01, 0.003)
"""Thresholds, relative to σ₁."""
_IDS = (101, 1996, 2214, 11803, 2196, 2409, 3087, 102)


def minilm_layers() -> JacobianProblem:
    """Return MiniLM's hidden states by its embeddings."""
    net, x = minilm_encoder(_IDS)
    return make_network_problem(net, x, lambda net, z: (net, z))


def convolutional_layer() -> JacobianProblem:
    """Return two layers of a small CNN."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 5, stride=4, padding=2)
    )
    return make_network_problem(net, torch.randn(1, 3, 32, 32), lambda net, z: (net, z))


PROBLEMS: dict[str, Callable[[], JacobianProblem]] = {
    "lite0/output": lambda: lite0("output"),
    "minilm": minilm_layers,
    "cnn": convolutional_layer,
}


def true_numbers(s: Tensor) -> dict[str, float]:
    """Return the numbers that are estimated, from all values."""
    found = {f"σ ≥ {share * float(s[0]):.3g}": float((s >= share * s[0]).sum()) for share in SHARES}
    p = s.square() / s.square().sum()
    entropy = -float(torch.xlogy(p, p).sum())
    return found | {"participation": 1 / float(p.square().sum()), "entropy": entropy}


def estimates(spectrum: Spectrum, top: float) -> list[Estimate]:
    """Return the same numbers, estimated."""
    counts = [spectrum.count(share * top) for share in SHARES]
    return [*counts, spectrum.participation_ratio(), spectrum.entropy()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks whole_spectra",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("-k", nargs="+", type=int, default=[50, 200])
    options = parser.parse_args(arguments)
    rows, held, every = [], 0, 0
    for name in options.problem:
        try:
            problem = PROBLEMS[name]()
        except UnavailableError as error:
            print(f"{name}: {error}")
            continue
        J = problem.operator()
        truth = torch.linalg.svdvals(problem.double().dense())
        expected, top = true_numbers(truth), float(truth[0])
        said = {f"k = {k}": svds(J, k, method="golub-kahan").spectrum for k in options.k}
        said["density"] = spectral_density(J)
        for how, spectrum in said.items():
            numbers = zip(expected.items(), estimates(spectrum, top), strict=True)
            for (what, true), found in numbers:
                low, high = found.interval()
                # A threshold is a singular value of float64; float32 may count one more or less.
                inside = math.floor(low) <= true <= math.ceil(high)
                held, every = held + inside, every + 1
                rows.append([name, what, f"{true:.4g}", how, found.in_words()])
                rows[-1].append("yes" if inside else "NO")
    print("\n".join(table(["network", "number", "truth", "by", "estimate", "held"], rows)))
    print(f"\n{held} of {every} intervals of 95 % hold the truth.")
    return 0
