"""A tall basis against a few vectors: by blocks of rows, as the solver does it, and as BLAS would.

    python -m benchmarks.tall [--width 8] [--rounds 5] [--shapes 21952x700 75264x760 150528x300]

The two products of one orthogonalisation, basis' W and W - basis C, in float32. Both sides in
turns, in one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.statistics_of_rounds import Spread
from jvpsvd.svd.tall import overlap, without


def milliseconds(work: Callable[[], object]) -> float:
    """Return the wall time of one call."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


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
        C = basis.T @ W
        sides: tuple[tuple[str, Callable[[], object], Callable[[], object]], ...] = (
            ("basis' W", lambda V=basis, W=W: overlap(V, W), lambda V=basis, W=W: V.T @ W),  # type: ignore[misc]
            (
                "W - basis C",
                lambda V=basis, W=W, C=C: without(W, V, C),  # type: ignore[misc]
                lambda V=basis, W=W, C=C: torch.addmm(W.T, C.T, V.T, alpha=-1),  # type: ignore[misc]
            ),
        )
        for name, ours, blas in sides:
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(asked.rounds + 1):  # the first warms up
                times[0].append(milliseconds(ours))
                times[1].append(milliseconds(blas))
            fast, plain = Spread.of(times[0][1:]), Spread.of(times[1][1:])
            print(
                f"{shape:12} {name:12} blocks of rows {fast}   BLAS {plain}   "
                f"ratio {plain.median / fast.median:.2f}"
            )


if __name__ == "__main__":
    main()
