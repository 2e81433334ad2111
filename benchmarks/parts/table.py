"""The parts of the suite, by name: what each measures, and how it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Measured = tuple[dict[str, Any], list[dict[str, Any]]]
"""Settings and rows."""


@dataclass(frozen=True)
class Asked:
    """What a command line says to a part."""

    quick: bool = False
    problems: tuple[str, ...] = ()
    solvers: tuple[str, ...] = ()
    k: int | None = None
    rounds: int | None = None
    budget: int | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Part:
    """One part. It runs in a process of its own: `measure`, or the script of its name."""

    name: str
    about: str
    measure: Callable[[Asked], Measured] | None = None
    quick_arguments: tuple[str, ...] = ()
    """Of a script."""
    writes_json: bool = True
    pieces: Callable[[], tuple[str, ...]] | None = None
    """What --problem narrows it down to: each is measured, and stored, before the next."""


def _peers(asked: Asked) -> Measured:
    from benchmarks.parts import peers as compare

    settings = compare.settings_of(
        asked.problems,
        asked.solvers,
        asked.quick,
        k=asked.k or 0,
        rounds=asked.rounds or 0,
        budget=asked.budget or 0,
        patience=asked.patience or 0,
    )
    told = {
        "k": settings.k,
        "rounds": settings.rounds,
        "budget_seconds": settings.budget_seconds,
        "patience": settings.patience,
    }
    return told, compare.measure(settings)


def _floors(asked: Asked) -> Measured:
    from benchmarks.parts import floors

    names = asked.problems or (floors.QUICK_NAMES if asked.quick else floors.NAMES)
    k = asked.k or (10 if asked.quick else 500)
    rounds = asked.rounds or (1 if asked.quick else 3)
    return {"k": k, "rounds": rounds}, floors.measure(names, k, rounds, small=asked.quick)


def _growth(asked: Asked) -> Measured:
    from benchmarks.parts import growth

    axes = growth.QUICK if asked.quick else growth.FULL
    chosen = tuple(axis for axis in axes if not asked.problems or axis.name in asked.problems)
    rounds = asked.rounds or (1 if asked.quick else 3)
    return {"rounds": rounds}, growth.measure(chosen, rounds)


def _problems() -> tuple[str, ...]:
    from benchmarks.parts.peers import FULL

    return FULL.names


def _floor_problems() -> tuple[str, ...]:
    from benchmarks.parts.floors import NAMES

    return NAMES


def _axes() -> tuple[str, ...]:
    from benchmarks.parts.growth import FULL

    return tuple(axis.name for axis in FULL)


def _cases() -> tuple[str, ...]:
    from benchmarks.problems.hostile import CASES

    return tuple(CASES)


def _safety(asked: Asked) -> Measured:
    from benchmarks.parts import safety
    from benchmarks.problems import hostile
    from benchmarks.solvers import PEERS

    # "-ours" differs from its like in the operator only, and there is one operator here.
    every = tuple(name for name in PEERS if not name.endswith("-ours"))
    solvers = asked.solvers or (safety.QUICK_SOLVERS if asked.quick else every)
    cases = asked.problems or tuple(hostile.CASES)
    budget = asked.budget or 30
    return {"k": hostile.K, "budget_seconds": budget}, safety.measure(solvers, cases, budget)


def _gpu(asked: Asked) -> Measured:
    from benchmarks.parts import gpu

    minutes = 2.0 if asked.quick else 10.0
    return {"minutes": minutes, "k": asked.k or 500}, gpu.measure(minutes, asked.k or 500)


PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("peers", "every solver on every problem, to one residual", _peers, pieces=_problems),
        Part(
            "floors",
            "wall time over the floor, stacked by parts, and the machine's peaks",
            _floors,
            pieces=_floor_problems,
        ),
        Part(
            "growth",
            "wall and memory by k, n, images, workers, ranks; exponents",
            _growth,
            pieces=_axes,
        ),
        Part(
            "safety",
            "hostile operators: right, wrong and said so, wrong in silence",
            _safety,
            pieces=_cases,
        ),
        Part("gpu", "correctness, then times, on one CUDA card in ten minutes", _gpu),
        Part(
            "allocator",
            "what keep_freed_memory saves",
            quick_arguments=("--vectors", "8", "--rounds", "1"),
            writes_json=False,
        ),
        Part("products", "a product beside an inference", quick_arguments=("--rounds", "1")),
        Part(
            "solver",
            "svds on EfficientNet-Lite0: floor, blocks, batches, warm starts, ARPACK",
            quick_arguments=("-k", "20", "--skip-arpack"),
        ),
        Part("survey", "what a survey adds to its solves", quick_arguments=("--only", "overhead")),
        Part(
            "batches",
            "all values of many small Jacobians beside svdvals",
            quick_arguments=("--digits", "2", "--rounds", "1"),
            writes_json=False,
        ),
        Part(
            "projected",
            "the leading part of the projected problem beside all of it",
            quick_arguments=("-k", "50", "--rows", "300", "--rounds", "1"),
            writes_json=False,
        ),
        Part(
            "tall",
            "a tall basis against a few vectors, by blocks of rows and by BLAS",
            quick_arguments=("--shapes", "4096x1100", "--rounds", "1"),
            writes_json=False,
        ),
        Part(
            "page",
            "the report of 10 000 photos at 10 depths: size, and time to open it",
            quick_arguments=("--photos", "50", "--depths", "2", "-k", "5", "--rounds", "1"),
        ),
    )
}
