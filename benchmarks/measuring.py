"""What the benchmarks share: clocks, figures held against targets, and a real Jacobian."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from jvpsvd import JacobianOperator, layer_map
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import OUTPUT, load_model
from jvpsvd.operators import LinearMap, Trace
from jvpsvd.svd import factorization

ROUNDS = 3
# What takes longer than this is timed once.
SHORT = 5.0


@dataclass
class Report:
    """Figures as they are printed, and once more for a file."""

    arguments: dict[str, Any]
    file: Path | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)
    _section: str = ""
    _of: str = ""

    def section(self, title: str) -> None:
        self._section, self._of = title, ""
        print(f"\n{title}", flush=True)

    def of(self, what: str) -> None:
        self._of = what
        print(f"  {what}", flush=True)

    def figure(
        self,
        name: str,
        value: float,
        text: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Print one figure, with its target and whether it was met, and keep it."""
        line, kept = f"    {name:26} {text}", {"name": name, "value": value, "text": text}
        if at_most is not None or at_least is not None:
            if at_most is not None:
                target, met = f"≤ {at_most:g}", value <= at_most
            else:
                target, met = f"≥ {at_least:g}", value >= float(at_least or 0)
            line = f"{line:72} target {target:6} {'met' if met else 'MISSED'}"
            kept |= {"target": target, "met": met}
        print(line, flush=True)
        self.figures.append({"section": self._section, "of": self._of} | kept)

    def summary(self) -> None:
        held = [one for one in self.figures if "met" in one]
        missed = [one for one in held if not one["met"]]
        print(f"\n{len(held) - len(missed)} of {len(held)} targets met")
        for one in missed:
            print(f"  missed: {one['of']}, {one['name']}: {one['value']:.3g}, {one['target']}")

    def save(self) -> None:
        """Write what there is so far."""
        if self.file is not None:
            content = {"machine": machine(), "arguments": self.arguments, "figures": self.figures}
            self.file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def machine() -> dict[str, Any]:
    """Return what a reader must know to compare times."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": "cpu",
        "processor": names[0] if names else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def seconds(work: Callable[[], object]) -> float:
    """Return the time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_seconds(work: Callable[[], object]) -> float:
    return statistics.median(seconds(work) for _ in range(ROUNDS))


@dataclass
class Stopwatch:
    """Seconds spent in the functions that it wraps."""

    seconds: float = 0.0

    def timing(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*args)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


@dataclass(frozen=True)
class Watches:
    """Where the time of a solve goes."""

    forward: Stopwatch = field(default_factory=Stopwatch)
    reverse: Stopwatch = field(default_factory=Stopwatch)
    projected: Stopwatch = field(default_factory=Stopwatch)
    """SVDs of the projected matrix, one at each look."""


@contextmanager
def watched(J: JacobianOperator) -> Iterator[Watches]:
    """Time the products of J and the projected SVDs of the solver."""
    watches, plain = Watches(), factorization.dense_svd
    J.__dict__["_matmat"] = watches.forward.timing(J._matmat)
    J.__dict__["_rmatmat"] = watches.reverse.timing(J._rmatmat)
    factorization.dense_svd = watches.projected.timing(plain)
    try:
        yield watches
    finally:
        factorization.dense_svd = plain
        del J.__dict__["_matmat"], J.__dict__["_rmatmat"]


def recorded(depth: str, *photos: int) -> list[LinearMap]:
    """Return the derivatives of EfficientNet-Lite0 up to a depth at some photos, recorded once."""
    model, shown = load_model("efficientnet-lite0"), demo_photos()
    points = [decode_photo(shown[i].file.read_bytes(), model.photo_input) for i in photos]
    f = model.module if depth == OUTPUT else layer_map(model.module, points[0], to=depth)[0]
    trace = Trace(f, points[0])
    return [trace.at(x)[0] for x in points]


def operator(linear_map: LinearMap, chunk: int | None = None) -> JacobianOperator:
    """Return the operator of a recorded derivative, each side of it used once."""
    J = JacobianOperator.from_linear_map(linear_map, chunk=chunk)
    J.matmat(torch.zeros(J.shape[1], J.chunk))
    J.rmatmat(torch.zeros(J.shape[0], J.chunk))
    return J
