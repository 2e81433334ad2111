"""The smallest tolerances that residuals can meet, for every spectrum in small sizes.

    python -m benchmarks rounding [--dtype float64] [--columns 50]

One row for each method and tolerance: how many solves converged in full, and the worst residual.
The thresholds of `jvpsvd.svd.request` were chosen by it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import torch

from benchmarks.problems.spectra import SPECTRA, SpectralOperator
from benchmarks.publish.tables import table
from jvpsvd import LinearOperator, MatrixOperator, svds

SHAPES = ((20, 12), (60, 50), (300, 240), (900, 700))
TIMES_EPS = (0.5, 1.0, 2.0, 4.0, 8.0, 20.0)


def make_operator(name: str, shape: tuple[int, int], dtype: torch.dtype) -> LinearOperator:
    """Return an operator with a spectrum of `SPECTRA`, or with independent normal entries."""
    if name == "normal":
        generator = torch.Generator().manual_seed(1)
        return MatrixOperator(torch.randn(shape, dtype=dtype, generator=generator))
    short = min(shape)
    return SpectralOperator(shape, SPECTRA[name].values(short, short), dtype=dtype)


def measure(method: str, times_eps: float, dtype: torch.dtype, columns: int) -> list[str]:
    """Return a row: how many solves at a tolerance converged, and their worst residuals."""
    eps = torch.finfo(dtype).eps
    converged, worst = [], []
    for shape, k, name in itertools.product(SHAPES, (1, 5, columns), (*SPECTRA, "normal")):
        if k > min(shape):
            continue
        result = svds(
            make_operator(name, shape, dtype),
            k,
            tol=times_eps * eps,
            method=method,
            memory=int(1e8),
            on_unconverged="ignore",
        )
        converged.append(bool(result.converged.all()))
        worst.append(float((result.residuals / result.s[0]).max()) / eps)
    worst.sort()
    middle, largest = worst[len(worst) // 2], worst[-1]
    solves = f"{sum(converged)} of {len(converged)}"
    return [method, f"{times_eps:g} eps", solves, f"{middle:.1f} eps", f"{largest:.1f} eps"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks rounding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--columns", type=int, default=50, help="the largest k")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    dtype = getattr(torch, options.dtype)
    rows = [
        measure(method, times, dtype, options.columns)
        for method in ("golub-kahan", "exact")
        for times in TIMES_EPS
    ]
    head = ["method", "tol", "converged", "residual, median", "worst"]
    print("\n".join(table(head, rows)))

    return 0
