"""Functions timed in this process: one alone, or two that do the same thing, in turns."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.measure.spread import Spread

Work = Callable[[], object]
# Seconds of rest before a timed call: threads of another library, which the other side of a pair
# may have used, spin for some time after their last task.
REST_SECONDS = 0.2


def time_once(work: Work) -> float:
    """Return the wall time of one call, in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def time_least(work: Work, rounds: int = 3, device: str = "cpu") -> float:
    """Return the least time of some rounds, after one that is not counted."""
    least = float("inf")
    for round_ in range(rounds + 1):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        if round_:
            least = min(least, time.perf_counter() - began)
    return least


@dataclass(frozen=True)
class Pair:
    """Two functions that do the same thing."""

    name: str
    first: tuple[str, Work]
    second: tuple[str, Work]
    count: int = 1
    """How many units of work one call does; times are those of one unit."""


@dataclass(frozen=True)
class Side:
    """The cost of one function of a pair, for one unit of work."""

    name: str
    milliseconds: tuple[float, ...]
    """One of each round."""
    page_faults: float
    """The median of all rounds."""

    def __str__(self) -> str:
        faults = f", {self.page_faults:.0f} page faults" if self.page_faults >= 1 else ""
        return f"{self.name} {Spread.of(self.milliseconds)} ms{faults}"


@dataclass(frozen=True)
class Comparison:
    """Both sides of a pair, and how many times the second's time the first took."""

    name: str
    first: Side
    second: Side

    @property
    def ratio(self) -> Spread:
        """The first's time over the second's, round by round."""
        return Spread.of(
            [a / b for a, b in zip(self.first.milliseconds, self.second.milliseconds, strict=True)]
        )

    def to_json(self) -> dict[str, Any]:
        """Return both sides and the ratio as JSON stores them."""
        sides = {
            side.name: {
                "milliseconds": Spread.of(side.milliseconds).to_json(),
                "page_faults": side.page_faults,
            }
            for side in (self.first, self.second)
        }
        return {"name": self.name, "sides": sides, "ratio": self.ratio.to_json()}

    def __str__(self) -> str:
        return f"{self.name:32} {self.first}   {self.second}   ratio {self.ratio}"


def time_in_turns(works: Mapping[str, Work], rounds: int) -> dict[str, list[float]]:
    """Let several functions take turns, each after a rest, and return the seconds of each.

    A first round is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(rounds + 1):
        for name, work in works.items():
            time.sleep(REST_SECONDS)
            seconds = time_once(work)
            if round_:
                times[name].append(seconds)
    return times


def compare(pair: Pair, rounds: int) -> Comparison:
    """Let both functions of a pair take turns; a first round is not counted."""
    sides: tuple[list[_Call], list[_Call]] = ([], [])
    for round_ in range(rounds + 1):
        for calls, (_, work) in zip(sides, (pair.first, pair.second), strict=True):
            call = _call(work)
            if round_:
                calls.append(call)
    return _comparison(pair, *sides)


def compare_across(pairs: Sequence[Pair], rounds: int, switch: Work) -> list[Comparison]:
    """Time the first function of every pair, call `switch`, then time the second of every pair.

    Use it where the switch cannot be undone, so that sides cannot take turns.
    """
    found = []
    for side in ("first", "second"):
        if side == "second":
            switch()
        works = [getattr(pair, side)[1] for pair in pairs]
        for work in works:
            work()
        found.append([[_call(work) for _ in range(rounds)] for work in works])
    return [_comparison(pair, *calls) for pair, *calls in zip(pairs, *found, strict=True)]


_Call = tuple[float, int]
"""Seconds and page faults."""


def _call(work: Work) -> _Call:
    time.sleep(REST_SECONDS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    seconds = time_once(work)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _comparison(pair: Pair, first: list[_Call], second: list[_Call]) -> Comparison:
    def side(name: str, calls: list[_Call]) -> Side:
        return Side(
            name,
            tuple(1e3 * seconds / pair.count for seconds, _ in calls),
            statistics.median(faults for _, faults in calls) / pair.count,
        )

    return Comparison(pair.name, side(pair.first[0], first), side(pair.second[0], second))


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
