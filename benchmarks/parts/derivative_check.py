"""How often the check of products against differences is right, over many small networks.

    python -m benchmarks derivative_check [--seeds 20] [--kinds round,whole]

Honest functions should pass silently, functions with a hidden derivative should be refused, and
those with a hidden part should be refused or logged. A hidden function that moves by less than 64
roundings of its value when its argument moves by a hundredth "stands still". Each kind is tried at
several seeds, which draw its sizes, its dtype, and the scales of weights and input, 1e-3 to 1e3.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from benchmarks.problems.small_functions import HONEST, PART, WHOLE, Draw, FunctionAtPoint
from jvpsvd import JacobianOperator
from jvpsvd.errors import AdjointError, ArgumentError, DerivativeError, NonFiniteError

# How often each kind is tried, in multiples of --seeds.
TIMES = {**dict.fromkeys(HONEST, 8), **dict.fromkeys(WHOLE, 3), **dict.fromkeys(PART, 3)}


@contextmanager
def collect_log() -> Iterator[list[str]]:
    """Collect the messages of jvpsvd's log, and show none."""
    said: list[str] = []
    logger = logging.getLogger("jvpsvd")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def find_outcome(problem: FunctionAtPoint, derivatives: str) -> str:
    """Return what becomes of a function: "silent", "logged", "refused" or "no Jacobian"."""
    fn, x = problem
    with collect_log() as said, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            JacobianOperator(fn, x, derivatives=derivatives)
        except (DerivativeError, AdjointError):
            return "refused"
        except (NonFiniteError, ArgumentError):
            return "no Jacobian"
    return "logged" if any("how fn moves" in line for line in said) else "silent"


def draw_functions(kind: str, count: int) -> Iterator[tuple[int, FunctionAtPoint, str]]:
    """Yield the seed, the function and the kind of derivatives of each trial."""
    make = {**HONEST, **WHOLE, **PART}[kind]
    for seed in range(count):
        rng = np.random.default_rng([seed, *kind.encode()])
        draw = Draw(rng, torch.float32 if seed % 2 else torch.float64)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            problem = make(draw)
        yield seed, problem, "transforms" if seed % 4 < 2 else "auto"


def stands_still(problem: FunctionAtPoint) -> bool:
    """Return whether f moves by less than 64 roundings of f(x) when x moves by a hundredth."""
    fn, x = problem
    with torch.no_grad():
        value = fn(x.clone()).detach()
        moved = fn(x * (1 + 1e-2 * torch.arange(x.numel()).cos().reshape(x.shape))) - value
        return bool(moved.norm() <= 64 * torch.finfo(x.dtype).eps * value.norm())


def count_outcomes(kind: str, count: int) -> dict[str, list[int]]:
    """Return the seeds of each outcome of a kind."""
    said = ("silent", "logged", "refused", "no Jacobian", "stands still")
    found: dict[str, list[int]] = {outcome: [] for outcome in said}
    for seed, problem, derivatives in draw_functions(kind, count):
        answer = find_outcome(problem, derivatives)
        if answer == "silent" and kind not in HONEST and stands_still(problem):
            answer = "stands still"
        found[answer].append(seed)
    return found


def is_wrong(kind: str, said: str) -> bool:
    """Return whether this outcome is wrong for this kind."""
    if kind in HONEST:
        return said in ("logged", "refused")
    return said == "silent" or (kind in WHOLE and said == "logged")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of the outcomes, and the seeds of those that are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks derivative_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kinds", default="", help="only those whose name holds one of these")
    options = parser.parse_args(arguments)
    wanted = options.kinds.split(",")
    print(
        "| kind | tried | silent | logged | refused | no Jacobian | stands still | wrong (seeds) |"
    )
    print("|---|---|---|---|---|---|---|---|")
    wrong = {"honest": 0, "whole": 0, "part": 0}
    total = dict(wrong)
    for kind in (*HONEST, *WHOLE, *PART):
        if not any(part in kind for part in wanted):
            continue
        found = count_outcomes(kind, TIMES[kind] * options.seeds)
        bad = [seed for said, seeds in found.items() if is_wrong(kind, said) for seed in seeds]
        group = "honest" if kind in HONEST else "whole" if kind in WHOLE else "part"
        count = sum(map(len, found.values()))
        wrong[group] += len(bad)
        total[group] += count - len(found["no Jacobian"]) - len(found["stands still"])
        counts = " | ".join(str(len(seeds)) for seeds in found.values())
        print(f"| {kind} | {count} | {counts} | {len(bad)} {bad[:12] or ''} |", flush=True)
    print()
    print(f"False alarms: {wrong['honest']} of {total['honest']} honest functions.")
    print(
        f"Misses: {wrong['whole']} of {total['whole']} hidden derivatives, "
        f"{wrong['part']} of {total['part']} hidden parts."
    )

    return 0
