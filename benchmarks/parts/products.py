"""What a product costs, beside an inference of the same network.

    python -m benchmarks products [--rounds 5]

The networks are EfficientNet-Lite0 (real weights, a real photo) and one with ResNet-50's shapes
(random weights, on which times do not depend). All run in one process: inference with channels
last, vmap(jvp) and vmap(vjp) of torch.func, and our products, with operations as recorded and
simplified. Milliseconds are per image or vector, at the best chunk, the least of a few rounds.
Memory is the peak of torch's allocations in one chunk, predicted and measured.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure.timing import time_least
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import load_model
from jvpsvd.operators import LinearMap, Trace, by_transforms, keep_freed_memory

CHUNKS = (4, 8, 16)
TARGETS = {"EfficientNet-Lite0": 1.4, "ResNet-50 shapes": 1.2}


class Bottleneck(nn.Module):
    """Three convolutions with batch norm, and a shortcut."""

    def __init__(self, inner: int, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)),
            *(nn.ReLU(inplace=True), nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inner != out:
            shortcut = nn.Conv2d(inner, out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's value."""
        return (self.body(x) + self.shortcut(x)).relu()


def resnet50_shapes() -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)]
    layers += [nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    inner = 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            layers.append(Bottleneck(inner, width, 4 * width, stride if index == 0 else 1))
            inner = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*layers).eval().requires_grad_(False)


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    model, shown = load_model("efficientnet-lite0"), demo_photos()[0]
    x = decode_photo(shown.file.read_bytes(), model.photo_input)
    return {"EfficientNet-Lite0": (model.module, x), "ResNet-50 shapes": (resnet50_shapes(), x)}


def milliseconds(work: Callable[[], object], count: int, rounds: int) -> float:
    """Return the least time of a few rounds, per vector."""
    return 1e3 * time_least(work, rounds) / count


def both_sides(J: LinearMap, rounds: int) -> tuple[float, float]:
    """Return the milliseconds per vector of J v and J' u, each at its best chunk."""
    best = [float("inf")] * 2
    for chunk in CHUNKS:
        blocks = (torch.randn(chunk, *z.shape) for z in (J.point, J.value))
        for side, (apply, block) in enumerate(zip((J.jvp, J.vjp), blocks, strict=True)):

            def work(apply: Callable[[Tensor], Tensor] = apply, block: Tensor = block) -> Tensor:
                return apply(block)

            best[side] = min(best[side], milliseconds(work, chunk, rounds))
    return best[0], best[1]


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that torch's CPU allocator held at once while working."""
    work()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    alive = peak = 0
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


def measure(name: str, net: nn.Module, x: Tensor, rounds: int) -> dict[str, Any]:
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    began = time.perf_counter()
    trace = Trace(net, x)
    record_seconds = time.perf_counter() - began
    (J,), (plain,) = trace.at(x), Trace(net, x, fold=False).at(x)
    transforms = by_transforms(net, x)
    v, u = torch.randn(1, *x.shape), torch.randn(1, *J.value.shape)
    errors = [
        float((ours - theirs).norm() / theirs.norm())
        for ours, theirs in ((J.jvp(v), transforms.jvp(v)), (J.vjp(u), transforms.vjp(u)))
    ]
    with torch.no_grad():
        inference = min(
            milliseconds(lambda X=X: last(X), X.shape[0], rounds)
            for chunk in CHUNKS
            for X in [x.expand(chunk, *x.shape[1:]).contiguous(memory_format=torch.channels_last)]
        )
        alone = milliseconds(lambda: net(x), 1, rounds)
    row: dict[str, Any] = {
        "inference": inference,
        "relative_difference": errors,
        "record_seconds": record_seconds,
        "set_up_in_inferences": milliseconds(lambda: trace.at(x, check=False), 1, rounds) / alone,
    }
    for kind, derivative in (("torch.func", transforms), ("recorded", plain), ("jvpsvd", J)):
        row[kind] = dict(zip(("jvp", "vjp"), both_sides(derivative, rounds), strict=True))
    if J.cost is not None:
        sides = ((J.jvp, v, J.cost.jvp_bytes), (J.vjp, u, J.cost.vjp_bytes))
        row["memory"] = []
        for apply, one, predicted in sides:
            block = one.expand(8, *one.shape[1:]).contiguous()
            # The block itself is the caller's, and is part of what is predicted.
            found = peak_bytes(lambda apply=apply, block=block: apply(block)) + block.nbytes
            row["memory"].append({"predicted": 8 * predicted, "measured": found})
    show(name, row)
    return row


def show(name: str, row: dict[str, Any]) -> None:
    print(f"\n{name}: inference {row['inference']:.1f} ms per image, channels last", flush=True)
    for kind in ("torch.func", "recorded", "jvpsvd"):
        times = "  ".join(
            f"{side} {row[kind][side]:5.1f} ms = {row[kind][side] / row['inference']:.2f} x"
            for side in ("jvp", "vjp")
        )
        print(f"  {kind:<11}{times}")
    worst = max(row["jvpsvd"].values()) / row["inference"]
    met = "met" if worst <= TARGETS[name] else "missed"
    print(
        f"  target {TARGETS[name]} x: {met} ({worst:.2f} x); recorded once in "
        f"{row['record_seconds']:.1f} s, {row['set_up_in_inferences']:.1f} inferences per photo"
    )
    print(
        "  differences from torch.func: "
        + ", ".join(f"{e:.0e}" for e in row["relative_difference"])
    )
    for side, memory in zip(("jvp", "vjp"), row.get("memory", ()), strict=False):
        print(
            f"  {side} of 8 vectors: {memory['predicted'] / 2**20:.0f} MiB predicted, "
            f"{memory['measured'] / 2**20:.0f} MiB measured"
        )


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks products",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    return {
        "rows": {
            name: measure(name, net, x, options.rounds) for name, (net, x) in networks().items()
        }
    }
