"""How far values that met the tolerance are off, where bases restart with few columns more than k.

    python -m benchmarks tiny_bases [--solves 60]

One row for each block and number of columns: how many of the solves had residuals below tol, how
many of these missed the true value by more than tol, and the worst of these errors in units of tol.
`_LEAST_EXTRA` and `_LEAST_EXTRA_BLOCKS` of jvpsvd.svd.krylov.restarts were chosen by it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.problems.random_problems import draw_problem
from benchmarks.publish.tables import table
from jvpsvd import MatrixOperator
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request

K = 1
TOLERANCES = (0.01, 0.0043)
MORE_COLUMNS = {1: (6, 8, 11, 16, 32), 4: (12, 16, 32), 8: (16, 24, 48)}
"""Columns more than k, by the width of the block."""


def dense_spectra() -> dict[str, Tensor]:
    """Return matrices whose largest values lie close together.

    Seed 117906 is the random hostile problem of which a wrong value was marked converged.
    """
    return {
        "seed 117906": draw_problem(117906).matrix[0],
        "line": torch.diag(torch.linspace(1, 0.5, 120, dtype=torch.float64)),
    }


def count_misses(matrix: Tensor, block: int, more: int, tol: float, solves: int) -> list[str]:
    """Return the cells of one row."""
    truth = float(torch.linalg.svdvals(matrix.double())[0])
    solver = GolubKahan(block_size=block, widest_block=block, max_size=K + more)
    met, missed, worst = 0, 0, 0.0
    for seed in range(solves):
        request = Request(K, tol=tol, seed=seed)
        triplets = solver.solve(MatrixOperator(matrix), request, Monitor())
        if float(triplets.residuals[0]) <= tol * float(triplets.s[0]):
            met += 1
            error = (truth - float(triplets.s[0])) / truth / tol
            missed += error > 1
            worst = max(worst, error)
    return [str(met), str(missed), f"{worst:.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks tiny_bases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--solves", type=int, default=60, help="seeds of each row")
    options = parser.parse_args(arguments)
    rows = [
        [
            *(name, f"{tol:g}", str(block), str(more)),
            *count_misses(matrix, block, more, tol, options.solves),
        ]
        for name, matrix in dense_spectra().items()
        for tol in TOLERANCES
        for block, columns in MORE_COLUMNS.items()
        for more in columns
    ]
    heads = ["spectrum", "tol", "block", "more than k", "residual met", "missed", "worst / tol"]
    print("\n".join(table(heads, rows)))
    return 0
