"""Counts of singular values from densities: ours beside curvlinops' Lanczos density of J J'.

    python -m benchmarks density [--problem lite0/output] [--probes 16] [--steps 40]

All methods run in one process on the same operator, and curvlinops gets the products of that
operator and its largest eigenvalue, which it would have to compute first. A row has products,
seconds, and the error of the counts of σ ≥ τ at thresholds between the largest value and a
hundredth of it, in values. curvlinops (PyPI curvlinops-for-pytorch) is optional.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator
from torch import Tensor

from benchmarks.publish.tables import table
from jvpsvd import JacobianOperator, LinearOperator, aslinearoperator, spectral_density, svds
from jvpsvd.networks import load_model

SHARES = (0.3, 0.1, 0.03, 0.01)
"""Thresholds, relative to σ₁."""


class SquareOfJacobian:
    """J J' as curvlinops takes an operator: shape, dtype, device and ``@``."""

    def __init__(self, J: LinearOperator) -> None:
        self._J = J if J.shape[0] <= J.shape[1] else J.T
        self.shape = (self._J.shape[0],) * 2
        self.dtype, self.device = J.dtype, J.device

    def __matmul__(self, v: Tensor) -> Tensor:
        return self._J.matmat(self._J.rmatmat(v[:, None]))[:, 0]

    def to_scipy(self) -> ScipyOperator:
        """Return it for SciPy; curvlinops asks for that even where it needs no eigenvalue."""
        return ScipyOperator(
            self.shape, lambda v: (self @ torch.from_numpy(v).to(self.dtype)).numpy()
        )


def problem(name: str) -> LinearOperator:
    """Return the operator of a problem."""
    if name == "lite0/output":
        model = load_model("efficientnet-lite0")
        x = torch.randn(model.photo_input.shape, generator=torch.Generator().manual_seed(0))
        return JacobianOperator(model.module, x)
    values = {
        "exponential": 30 * torch.exp(-8 * torch.arange(1000) / 1000),
        "power": 30 / torch.arange(1, 1001),
    }
    return aslinearoperator(torch.diag(values[name]))


def counts_of_curvlinops(
    J: LinearOperator, probes: int, steps: int, thresholds: Tensor, top: float
) -> list[float]:
    """Return the counts from curvlinops' density."""
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    square = SquareOfJacobian(J)
    grid, density = lanczos_approximate_spectrum(
        square, steps, num_repeats=probes, boundaries=(0.0, top**2)
    )
    total = torch.trapezoid(density, grid)
    found = []
    for threshold in thresholds.tolist():
        above = torch.where(grid >= threshold**2, density, 0.0)
        found.append(float(square.shape[0] * torch.trapezoid(above, grid) / total))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks density",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = ("lite0/output", "exponential", "power")
    parser.add_argument("--problem", choices=choices, default=choices[0])
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(arguments)
    J = problem(options.problem)
    truth = svds(J, "all", vectors=False, method="exact").s.double()
    top = float(truth[0])
    thresholds = torch.tensor([share * top for share in SHARES])
    expected = [int((truth >= t).sum()) for t in thresholds]

    def ours() -> list[float]:
        spectrum = spectral_density(J, options.probes, options.steps)
        return [spectrum.count(float(t)).value for t in thresholds]

    def known() -> list[float]:
        spectrum = svds(J, min(500, min(J.shape) // 2), method="golub-kahan").spectrum
        return [spectrum.count(float(t)).value for t in thresholds]

    methods: dict[str, Callable[[], list[float]]] = {
        "spectral_density": ours,
        "svds, half of the values known": known,
        "curvlinops": lambda: counts_of_curvlinops(
            J, options.probes, options.steps, thresholds, top
        ),
    }
    heads = ["method", "products", "s", *(f"σ ≥ {float(t):.3g}" for t in thresholds), "mean error"]
    rows = [["truth", "", "", *map(str, expected), ""]]
    for name, method in methods.items():
        before, began = J.products, time.perf_counter()
        try:
            found = method()
        except ImportError as error:
            print(f"{name}: {error}")
            continue
        seconds, taken = time.perf_counter() - began, J.products.since(before)
        off = np.abs(np.array(found) - np.array(expected)).mean()
        cells = [f"{one:.1f}" for one in found]
        rows.append(
            [name, f"{taken.forward + taken.reverse}", f"{seconds:.1f}", *cells, f"{off:.1f}"]
        )
    print("\n".join(table(heads, rows)))
    return 0
