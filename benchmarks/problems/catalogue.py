"""The problems by name: Jacobians of real networks, and matrices with known values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.problems import networks
from benchmarks.problems.problem import OperatorProblem, Problem
from benchmarks.problems.spectra import SPECTRA, choose_shape, spectral

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)


@dataclass(frozen=True)
class NamedProblem:
    """A problem before it is built: its name, its shape and what is known of it."""

    name: str
    shape: tuple[int, ...]
    """(m, n), or (B, m, n)."""
    build: Callable[[], Problem]
    """Builds it; raises `networks.UnavailableError` where a package or a file is missing."""
    values: Callable[[int], Tensor] | None = None
    """The k leading singular values, float64, where they are known beforehand."""
    kind: Literal["network", "synthetic"] = "network"
    tol: float = 1e-4
    """The required residual, relative to s₁."""


def synthetic(spectrum: str, n: int) -> NamedProblem:
    """Return the problem with this spectrum and about n columns, in float32."""
    shape = choose_shape(n)

    def values(k: int) -> Tensor:
        return SPECTRA[spectrum].values(k, min(shape))

    def build() -> Problem:
        return OperatorProblem(
            lambda: spectral(spectrum, n), lambda: spectral(spectrum, n, dtype=torch.float64)
        )

    return NamedProblem(
        f"{spectrum}/n={n:.0e}".replace("e+0", "e"), shape, build, values, "synthetic"
    )


def all_problems() -> dict[str, NamedProblem]:
    """Return all problems by name; nothing is built yet."""
    found = [
        NamedProblem("lite0/output", (1000, 150528), lambda: networks.lite0("output")),
        NamedProblem("lite0/_blocks.15", (15680, 150528), lambda: networks.lite0("_blocks.15")),
        NamedProblem("lite0/_blocks.9", (21952, 150528), lambda: networks.lite0("_blocks.9")),
        NamedProblem("lite0/_blocks.2", (75264, 150528), lambda: networks.lite0("_blocks.2")),
        NamedProblem("alexnet-random/features.12", (9216, 150528), networks.alexnet_random),
        NamedProblem("alexnet-trained/pool5", (9216, 150528), networks.alexnet_trained),
        NamedProblem("minilm/sentence", (384, 16 * 384), networks.minilm),
        NamedProblem("digits/1000", (1000, 2000, 784), lambda: networks.digits(1000)),
        NamedProblem("digits/4", (4, 2000, 784), lambda: networks.digits(4)),
    ]
    found += [synthetic(spectrum, n) for spectrum in SPECTRA for n in SIZES]
    return {problem.name: problem for problem in found}


QUICK = ("1/i/n=1e3", "repeated/n=1e3", "rank-deficient/n=1e3", "perceptron")


def quick_problems() -> dict[str, NamedProblem]:
    """Return small problems, by which everything can be tried in a minute."""
    small = NamedProblem("perceptron", (120, 300), networks.perceptron)
    known = {**all_problems(), small.name: small}
    return {name: known[name] for name in QUICK}


def find_problem(name: str) -> NamedProblem:
    """Return the problem of this name.

    Raises:
        KeyError: If there is none.
    """
    return {**all_problems(), **quick_problems()}[name]
