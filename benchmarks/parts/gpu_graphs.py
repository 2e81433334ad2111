"""Products of a recorded network as CUDA graphs beside the same products called one by one.

    python -m benchmarks gpu_graphs [--quick]

It is a part of `python -m benchmarks gpu`, too. A product of a recording launches some hundred
kernels from Python. `torch.cuda.graph` captures them once, on static inputs, and a replay launches
them together. Whether the engine is to do that rests on the ratio that is printed: the product as
the engine calls it over a replay, with the copies into the static block and out of it. Each replay
is compared with the product first, on another block than the one captured. Without a card, one line
says so; with --quick everything but the capture runs, on the CPU if need be. It takes a minute.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.timing import time_least
from benchmarks.parts.gpu_lock_step import Photos
from benchmarks.parts.gpu_lock_step import Setting as PhotoSetting
from benchmarks.problems.networks import UnavailableError
from jvpsvd.operators import BatchedMap, full_precision

_WARM_UP, _ROUNDS = 3, 10
_RIGHT = 1e-4
"""Largest difference of a replay, over the largest entry: convolutions may take another kernel."""

Multiply = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setting:
    """Where to measure, and how much.

    Args:
        device: "cuda"; "cpu" to try the script.
        depth: Depth of EfficientNet-Lite0.
        together: Numbers of photos.
        widths: Vectors of each photo.
    """

    device: str = "cuda"
    depth: str = "_blocks.9"
    together: tuple[int, ...] = (1, 32)
    widths: tuple[int, ...] = (2, 16)


TINY = Setting("cpu", "_blocks.15", (1, 2), (2,))


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks gpu_graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, without a card too")
    parser.add_argument("--minutes", type=float, default=3.0)
    quick, minutes = vars(parser.parse_args(arguments)).values()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        print("no CUDA device: graphs of products are skipped")
        return []
    setting = replace(TINY if quick else Setting(), device=device)
    try:
        return list(measure(setting, time.perf_counter() + 60 * minutes))
    except UnavailableError as error:
        print(f"skipped, {error}")
        return []


def measure(setting: Setting, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield a row for both products of each block, while there is time.

    Raises:
        UnavailableError: If the demo's network or photos are not installed.
    """
    photos = Photos(PhotoSetting(setting.device, depth=setting.depth))
    for count in setting.together:
        J = photos.derivative(count)
        for width in setting.widths:
            for side in ("jvp", "vjp"):
                if time.perf_counter() < deadline:
                    with torch.no_grad(), full_precision():
                        yield time_product(J, side, width, setting)


def time_product(J: BatchedMap, side: str, width: int, setting: Setting) -> dict[str, Any]:
    """Return the row of one product of a block: called, and as a graph where there is a card."""
    count, like = len(J.point), J.point if side == "jvp" else J.value
    product = J.jvp if side == "jvp" else J.vjp
    multiply: Multiply = lambda block: product(block, chunk=count * width)  # noqa: E731
    generator = torch.Generator().manual_seed(0)
    blocks = [
        torch.randn(count, width, *like.shape[1:], generator=generator).to(like) for _ in range(2)
    ]
    called = time_least(lambda: multiply(blocks[0]), _ROUNDS, setting.device)
    row: dict[str, Any] = {
        "kind": "graph",
        "problem": f"graphs/lite0/{setting.depth}/{count}x{width}/{side}",
        "photos": count,
        "block_size": width,
        "seconds": called,
        "replay_seconds": None,
        "ratio": None,
        "error": None,
        "right": None,
    }
    name = f"{side} of {count:2} x {width:2} vectors: {1e3 * called:.2f} ms called"
    if setting.device != "cuda":
        print(f"{name}; no graph without a card", flush=True)
        return row
    replay = capture(without_checks(J, side), blocks[0])
    wanted = multiply(blocks[1])
    error = float((replay(blocks[1]) - wanted).abs().max() / wanted.abs().max())
    replayed = time_least(lambda: replay(blocks[0]), _ROUNDS, setting.device)
    right, ratio = error <= _RIGHT, called / replayed
    print(
        f"{name}, {1e3 * replayed:.2f} ms as a graph: {ratio:.2f} times as fast; "
        f"{'right' if right else 'WRONG'}, {error:.1e}",
        flush=True,
    )
    return {**row, "replay_seconds": replayed, "ratio": ratio, "error": error, "right": right}


def without_checks(J: BatchedMap, side: str) -> Multiply:
    """Return a product without the checks for changed weights, which wait for the card."""
    found = J.jvp_product if side == "jvp" else J.vjp_product
    product: Any = replace(found, check=_nothing, check_weights=_nothing)  # type: ignore[type-var]
    return lambda block: product(block, slice(0, len(J.point)))


def capture(multiply: Multiply, like: Tensor) -> Multiply:
    """Return a product as a graph: a block is copied into its input, and a copy is returned."""
    block = like.clone()
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # what is made at first calls must not be captured
        for _ in range(_WARM_UP):
            multiply(block)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        images = multiply(block)

    def replay(of: Tensor) -> Tensor:
        block.copy_(of)
        graph.replay()
        return images.clone()

    return replay


def _nothing() -> None:
    """Check nothing."""


if __name__ == "__main__":
    main()
