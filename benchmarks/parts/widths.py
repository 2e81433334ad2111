"""Solves by the width of their blocks: products, seconds, and what is not products.

    python -m benchmarks widths [-k 500] [--depths _blocks.15,_blocks.9,_blocks.2]
                                [--widths 8,16] [--rounds 2]

Wide blocks need more products, and less dense work for each: a pass over a basis serves all columns
of a block. Widths take turns on the Jacobian of EfficientNet-Lite0 at one photo.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.measure.phases import seconds_by_phase
from benchmarks.parts.solver import jacobian
from jvpsvd import JacobianOperator, SVDResult, svds
from jvpsvd.operators import keep_freed_memory
from jvpsvd.svd.plan import plan
from jvpsvd.svd.request import ProblemSize, Request


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks widths",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--tol", type=float, default=1e-4)
    parser.add_argument("--depths", default="output,_blocks.15,_blocks.9,_blocks.2")
    parser.add_argument("--widths", default="8,16")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    print(f"load before: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    widths = [int(width) for width in options.widths.split(",")]
    report: dict[str, Any] = {}
    for depth in options.depths.split(","):
        J = jacobian(depth)
        k = min(options.k, *J.shape)
        planned = plan(ProblemSize.of(J), Request(k, tol=options.tol, method="golub-kahan"))
        found: dict[int, list[SVDResult]] = {width: [] for width in widths}
        for _ in range(options.rounds):
            for width, solves in found.items():
                solves.append(solve(J, k, options.tol, width))
        print(
            f"\n{depth}: {J.shape[0]} x {J.shape[1]}, k = {k}, tol = {options.tol:g}; svds would "
            f"take blocks of {planned.block_size}"
        )
        report[depth] = rows = [row_of(width, solves) for width, solves in found.items()]
        for row in rows:
            print_row(row)
    print(f"\nload after: {os.getloadavg()[0]:.1f}")
    return report


def solve(J: JacobianOperator, k: int, tol: float, width: int) -> SVDResult:
    """Solve with blocks of this width."""
    return svds(J, k, tol=tol, method="golub-kahan", block_size=width, on_unconverged="ignore")


def row_of(width: int, solves: Sequence[SVDResult]) -> dict[str, Any]:
    """Return the row of one width: the solve of median time, and all times."""
    ordered = sorted(solves, key=lambda result: result.seconds)
    median = ordered[(len(ordered) - 1) // 2]
    parts = seconds_by_phase(median, median.seconds)
    return {
        "width": width,
        "products": median.products.total,
        "seconds": [result.seconds for result in solves],
        "parts": parts,
        "others": 1 - parts["products"] / median.seconds,
        "converged": int(median.converged.sum()),
    }


def print_row(row: dict[str, Any]) -> None:
    """Print one row."""
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["parts"].items())
    print(
        f"  {row['width']:2}: {statistics.median(row['seconds']):5.1f} s, "
        f"{row['products']} products, {row['others']:.0%} is not products: {parts}; "
        f"{row['converged']} converged",
        flush=True,
    )
