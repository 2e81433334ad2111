"""What `svds` chooses for matrices in memory, beside both methods and LAPACK.

    python -m benchmarks choice [--quick] [--rounds 3]

For each matrix and k, `svds` with method "auto", "golub-kahan" and "exact" take turns, and with
them `torch.linalg.svd`. The ratio is the time of "auto" over that of the faster method. How many
products Golub–Kahan needs depends on the spectrum, which nobody knows before: the choice is made
for one that decays as 1/i, and a flat one (normal entries) needs more.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.timing import time_in_turns
from jvpsvd import SVDResult, svds

_SHAPES = ((1000, 1000), (3000, 1000), (1000, 3000), (20_000, 500), (2000, 2000))
_KS = (10, 100, 300)
_TOL = 1e-4


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks choice",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one shape, one round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    shapes, rounds = (((400, 400),), 1) if options.quick else (_SHAPES, options.rounds)
    rows = []
    for dtype in (torch.float32, torch.float64):
        for shape in shapes:
            for spectrum, make in (("1/i", _decaying), ("flat", _flat)):
                A = make(*shape).to(dtype)
                for k in (k for k in _KS if k <= min(shape) // 2):
                    row = _time(A, k, rounds)
                    rows.append({"spectrum": spectrum, **row})
                    print(_in_words(rows[-1]), flush=True)
    return {"tol": _TOL, "rows": rows}


def _decaying(m: int, n: int) -> Tensor:
    """Return a matrix with the singular values 1/i, and random singular vectors."""
    generator, p = torch.Generator().manual_seed(0), min(m, n)
    U, V = (
        torch.linalg.qr(torch.randn(size, p, generator=generator, dtype=torch.float64))[0]
        for size in (m, n)
    )
    return (U / torch.arange(1, p + 1)) @ V.T


def _flat(m: int, n: int) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _time(A: Tensor, k: int, rounds: int) -> dict[str, Any]:
    chosen: list[SVDResult] = []
    works: dict[str, Callable[[], object]] = {
        "auto": lambda: chosen.append(svds(A, k, tol=_TOL)),
        "golub-kahan": lambda: svds(A, k, tol=_TOL, method="golub-kahan"),
        "exact": lambda: svds(A, k, tol=_TOL, method="exact"),
        "LAPACK": lambda: torch.linalg.svd(A, full_matrices=False),
    }
    times = time_in_turns(works, rounds)
    median = {name: statistics.median(every) for name, every in times.items()}
    best = min(median["golub-kahan"], median["exact"])
    return {
        "dtype": str(A.dtype).removeprefix("torch."),
        "shape": list(A.shape),
        "k": k,
        "chosen": chosen[-1].method,
        "seconds": times,
        "ratio": median["auto"] / best,
    }


def _in_words(row: dict[str, Any]) -> str:
    shape = " x ".join(map(str, row["shape"]))
    times = ", ".join(
        f"{name} {1e3 * statistics.median(every):.0f}" for name, every in row["seconds"].items()
    )
    return (
        f"{row['dtype']} {shape:12} {row['spectrum']:4} k={row['k']:<4} {times} ms: "
        f"{row['chosen']}, ratio {row['ratio']:.2f}"
    )
