"""A tall basis against a few vectors: by blocks of rows, as the solver does it, and as BLAS would.

    python -m benchmarks.tall [--width 8] [--rounds 5] [--shapes 21952x700 75264x760 150528x300]

The two products of one orthogonalisation, basis' W and W - basis C, in float32, and W'W in float64,
by which the vectors are made orthonormal. Both sides in turns, in one process.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from benchmarks.projected import seconds
from benchmarks.statistics_of_rounds import Spread
from jvpsvd.svd.kernels.row_blocked import gram, project, subtract_projection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    shapes = ["21952x700", "75264x760", "150528x300"]
    parser.add_argument("--shapes", nargs="+", default=shapes)
    asked = parser.parse_args()
    print(f"{asked.width} vectors, {torch.get_num_threads()} threads, ms, median (range)")
    for shape in asked.shapes:
        length, size = map(int, shape.split("x"))
        basis, W = torch.randn(size, length).T, torch.randn(asked.width, length).T
        C, wide = basis.T @ W, W.T.double().T
        sides = (
            ("basis' W", partial(project, basis, W), partial(torch.mm, basis.T, W)),
            (
                "W - basis C",
                partial(subtract_projection, W, basis, C),
                partial(torch.addmm, W.T, C.T, basis.T, alpha=-1),
            ),
            ("W'W", partial(gram, wide), partial(torch.mm, wide.T, wide)),
        )
        for name, ours, blas in sides:
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(asked.rounds + 1):  # the first warms up
                times[0].append(1e3 * seconds(ours))
                times[1].append(1e3 * seconds(blas))
            fast, plain = Spread.of(times[0][1:]), Spread.of(times[1][1:])
            print(
                f"{shape:12} {name:12} blocks of rows {fast}   BLAS {plain}   "
                f"ratio {plain.median / fast.median:.2f}"
            )


if __name__ == "__main__":
    main()
