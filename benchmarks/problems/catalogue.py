"""The problems: Jacobians of networks that people use, and matrices whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.problems import networks
from benchmarks.problems.problem import OperatorSubject, Subject
from benchmarks.problems.spectra import SPECTRA, spectral, spectral_shape

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)


@dataclass(frozen=True)
class Problem:
    """A matrix to find k triplets of."""

    name: str
    shape: tuple[int, ...]
    """(m, n), or (B, m, n)."""
    build: Callable[[], Subject]
    """Makes it; raises `networks.UnavailableError` where a package or file is not there."""
    values: Callable[[int], Tensor] | None = None
    """The k leading singular values, float64, where they are known beforehand."""
    kind: Literal["network", "synthetic"] = "network"
    tol: float = 1e-4
    """Residual that is required, relative to s₁."""


def synthetic(spectrum: str, n: int) -> Problem:
    """Return the problem of one spectrum and about n columns, in float32."""
    shape = spectral_shape(n)

    def values(k: int) -> Tensor:
        return SPECTRA[spectrum].values(k, min(shape))

    def build() -> Subject:
        return OperatorSubject(
            lambda: spectral(spectrum, n), lambda: spectral(spectrum, n, dtype=torch.float64)
        )

    return Problem(f"{spectrum}/n={n:.0e}".replace("e+0", "e"), shape, build, values, "synthetic")


def problems() -> dict[str, Problem]:
    """Return all problems by name; nothing is built yet."""
    found = [
        Problem("lite0/output", (1000, 150528), lambda: networks.lite0("output")),
        Problem("lite0/_blocks.15", (15680, 150528), lambda: networks.lite0("_blocks.15")),
        Problem("lite0/_blocks.9", (21952, 150528), lambda: networks.lite0("_blocks.9")),
        Problem("lite0/_blocks.2", (75264, 150528), lambda: networks.lite0("_blocks.2")),
        Problem("alexnet-random/features.12", (9216, 150528), networks.alexnet_random),
        Problem("alexnet-trained/pool5", (9216, 150528), networks.alexnet_trained),
        Problem("minilm/sentence", (384, 16 * 384), networks.minilm),
        Problem("digits/1000", (1000, 2000, 784), lambda: networks.digits(1000)),
        Problem("digits/4", (4, 2000, 784), lambda: networks.digits(4)),
    ]
    found += [synthetic(spectrum, n) for spectrum in SPECTRA for n in SIZES]
    return {problem.name: problem for problem in found}


QUICK = ("1/i/n=1e3", "repeated/n=1e3", "rank-deficient/n=1e3", "perceptron")


def quick_problems() -> dict[str, Problem]:
    """Return small problems that show, in a minute, that everything runs."""
    small = Problem("perceptron", (120, 300), networks.perceptron)
    known = {**problems(), small.name: small}
    return {name: known[name] for name in QUICK}


def problem(name: str) -> Problem:
    """Return the problem of this name.

    Raises:
        KeyError: If there is none.
    """
    return {**problems(), **quick_problems()}[name]
