"""What `keep_freed_memory` saves: products of one network before and after, in one process.

    python -m benchmarks.allocator [--vectors 32] [--rounds 3]

The setting cannot be taken back, so all rounds before come first; the inference timed beside each
round shows whether the machine itself changed speed in between.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch

from jvpsvd import JacobianOperator
from jvpsvd.networks import load_model
from jvpsvd.operators import keep_freed_memory


def milliseconds(work: Callable[[], object], vectors: int, rounds: int) -> tuple[float, float]:
    """Return the median time and the median count of page faults, per vector."""
    times, faults = [], []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        began = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - began) / vectors)
        faults.append((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / vectors)
    return statistics.median(times), statistics.median(faults)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    model = load_model("efficientnet-lite0")
    x = torch.randn(model.photo_input.shape, generator=torch.Generator().manual_seed(0))
    J = JacobianOperator(model.module, x, chunk=8)  # the same before and after
    V = torch.randn(arguments.vectors, J.shape[1]).T
    U = torch.randn(arguments.vectors, J.shape[0]).T
    sides: dict[str, tuple[Callable[[], object], int]] = {
        "JVP": (lambda: J.matmat(V), arguments.vectors),
        "VJP": (lambda: J.rmatmat(U), arguments.vectors),
        "inference": (lambda: model.module(x), 1),
    }
    for work, _ in sides.values():
        work()
    print(f"EfficientNet-Lite0, J {J.shape[0]} x {J.shape[1]}, chunk {J.chunk}, per vector")
    before = {name: milliseconds(*side, arguments.rounds) for name, side in sides.items()}
    if not keep_freed_memory():
        print("this C library is not glibc: nothing to compare")
        return
    for work, _ in sides.values():
        work()
    after = {name: milliseconds(*side, arguments.rounds) for name, side in sides.items()}
    for name in sides:
        (slow, many), (fast, few) = before[name], after[name]
        print(
            f"{name:9}  before {slow:6.1f} ms {many:9.0f} page faults   "
            f"after {fast:6.1f} ms {few:9.0f} page faults   ratio {slow / fast:4.2f}"
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
