"""The projected problem: the leading part of a band matrix beside its whole decomposition.

    python -m benchmarks.projected [-k 500] [--rows 1000 2000 2800] [--rounds 3]

Block Golub–Kahan looks at it some twenty times a solve. Both sides in turns, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.statistics_of_rounds import Spread
from jvpsvd.svd.kernels.dense import dense_svd, leading_svd

BLOCK = 8


def projected(rows: int) -> torch.Tensor:
    """Return an upper band matrix such as blocks of 8 leave behind, with values of one size."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(rows, rows, dtype=torch.float64, generator=generator)
    band = torch.triu(full) - torch.triu(full, 2 * BLOCK)
    return band / BLOCK + 2 * torch.eye(rows, dtype=torch.float64)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 2800])
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    loss = 1e-2 * torch.finfo(torch.float32).eps
    print(f"{asked.k} triplets of a band matrix in float64, seconds, median (range)")
    for rows in asked.rows:
        B = projected(rows)
        whole, leading = [], []
        for _ in range(asked.rounds):
            whole.append(seconds(lambda B=B: dense_svd(B)))  # type: ignore[misc]
            leading.append(seconds(lambda B=B: leading_svd(B, asked.k, loss)))  # type: ignore[misc]
        gap = (dense_svd(B)[1][: asked.k] - leading_svd(B, asked.k, loss)[1]).abs().max()
        slow, fast = Spread.of(whole), Spread.of(leading)
        print(
            f"{rows:5} rows   all of it {slow}   the leading part {fast}   "
            f"ratio {slow.median / fast.median:.2f}   values differ by {float(gap):.0e}"
        )


if __name__ == "__main__":
    main()
