"""Random hostile problems by the tens of thousands: is any wrong value marked converged?

    python -m benchmarks random_hostile --first 0 --seconds 600 --file found.jsonl
    python -m benchmarks random_hostile --draw copies --seconds 600 --file copies.jsonl
    python -m benchmarks random_hostile --draw scales --seconds 600 --file scales.jsonl
    python -m benchmarks random_hostile --draw sparse --seconds 600 --file sparse.jsonl

`--draw copies` draws values that repeat, a few tolerances apart, instead of problems of all kinds;
`--draw scales` multiplies these by numbers from the smallest to the largest of their dtype;
`--draw sparse` gives them, and those with copies, as sparse matrices in float64.
Problems are solved seed by seed and compared with LAPACK's values in float64. Each hundred of them
fills one line of the file with what was found, and a call with the same file goes on where it
ended. A table follows at the end. Its columns are
- values: all values returned, and those marked converged.
These must be 0:
- wrong: values marked converged that are further from the true value of their index than the
  tolerance;
- not there: values above the true value of their index, converged or not, with a sound certificate;
- vectors: converged triplets whose residual or orthonormality a float64 product finds larger;
- raw: exceptions that are not jvpsvd's, and other warnings.
These may occur:
- refused: errors of jvpsvd, which are answers;
- neighbour: values that are right to the tolerance, but further from the value of their index than
  their residual, with a complete certificate: a value that close may stand in for another.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.machine import find_commit
from benchmarks.problems.random_copies import draw_copies
from benchmarks.problems.random_problems import RandomProblem, draw_problem
from benchmarks.problems.random_scales import draw_scales
from benchmarks.problems.random_sparse import draw_sparse
from benchmarks.publish.tables import table
from jvpsvd import SVDResult, svds
from jvpsvd.errors import JvpsvdError, JvpsvdWarning

_AT_ONCE = 100
# Rounding of values and residuals in units of eps · s₁ · √max(m, n): restarts add up.
_ROUNDING = 30.0
# Seconds of the processor for one solve; the largest take one or two.
_LIMIT_SECONDS = 60
_DRAW: dict[str, Callable[[int], RandomProblem]] = {
    "all": draw_problem,
    "copies": draw_copies,
    "scales": draw_scales,
    "sparse": draw_sparse,
}
FAULTS = ("wrong", "not there", "vectors", "raw")
COLUMNS = ("problems", "values", "converged", *FAULTS, "neighbour", "refused")


def solve(problem: RandomProblem) -> tuple[dict[str, int], list[str]]:
    """Solve one problem; return its counts, and its faults in words."""
    counts = collections.Counter(problems=1)
    faults = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", JvpsvdWarning)
        try:
            signal.setitimer(signal.ITIMER_PROF, _LIMIT_SECONDS)
            result = svds(problem.given, **problem.options)
        except JvpsvdError as error:
            counts["refused"] += 1
            if "\n" in str(error):
                faults.append(f"raw: a message of several lines: {error}")
        except Exception as error:  # no caller should see this
            faults.append(f"raw: {type(error).__name__}: {error}")
        else:
            counts["values"] += result.s.numel()
            counts["converged"] += int(result.converged.sum())
            faults += find_faults(problem, result)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    for fault in faults:
        counts[fault.split(":")[0]] += 1
    return dict(counts), faults


def _give_up(*_: object) -> None:
    raise TimeoutError(f"no answer in {_LIMIT_SECONDS} s of the processor")


def find_faults(problem: RandomProblem, result: SVDResult) -> list[str]:
    """Return what is wrong with a result, in words that begin with the name of a column."""
    if problem.matrix.ndim == 2:
        return _find_faults(problem.matrix, result)
    return [
        f"{fault} (matrix {i})"
        for i, matrix in enumerate(problem.matrix)
        for fault in _find_faults(matrix, result.of(i))
    ]


def _find_faults(matrix: Tensor, result: SVDResult) -> list[str]:
    wide = matrix.double()
    scale = float(wide.abs().max()) or 1.0
    truth = scale * torch.linalg.svdvals(wide / scale)[: result.s.shape[0]]
    s, residuals = result.s.double(), result.residuals.double()
    top = float(truth[0])
    slack = _ROUNDING * torch.finfo(matrix.dtype).eps * top * math.sqrt(max(matrix.shape))
    error, converged = (s - truth).abs(), result.converged
    found = []

    def note(kind: str, bad: Tensor, amount: Tensor) -> None:
        if bool(bad.any()):
            worst = int((amount * bad).argmax())
            share = float(amount[worst]) / top if top else math.inf
            found.append(
                f"{kind}: {int(bad.sum())} of {len(s)}, value {worst} by {share:.1e} s1 (s "
                f"{float(s[worst]):.3e}, true {float(truth[worst]):.3e}, residual "
                f"{float(residuals[worst]):.1e}, {result.method}, {result.certificate})"
            )

    tolerance = result.tol * top
    note("wrong", converged & (error > tolerance + slack), error)
    allowed = torch.where(truth <= tolerance, residuals.clamp_min(tolerance), residuals)
    if result.certificate.complete:
        note("neighbour", converged & (error > allowed + slack), error)
    if result.certificate.sound:
        note("not there", s > truth + slack + residuals, s - truth)
    if not bool(torch.isfinite(s).all() and torch.isfinite(residuals).all()):
        found.append("wrong: a value or a residual is not finite")
    if result.U is not None and result.Vh is not None and top > 0:
        U, V = result.U.double(), result.Vh.double().mT
        U, V = U / U.norm(dim=0), V / V.norm(dim=0)  # residuals belong to unit vectors
        forward = torch.linalg.vector_norm(wide / scale @ V - U * (s / scale), dim=0)
        adjoint = torch.linalg.vector_norm(wide.mT / scale @ U - V * (s / scale), dim=0)
        measured = scale * torch.maximum(forward, adjoint)
        note("vectors", converged & (measured > residuals.clamp_min(tolerance) + slack), measured)
        for side in (U, V):
            off = (side.mT @ side - torch.eye(side.shape[1], dtype=torch.float64)).abs().max()
            if result.converged.all() and float(off) > 1e-2:
                found.append(f"vectors: orthonormal to {float(off):.1e} only")
    return found


def run(
    draw: Callable[[int], RandomProblem], first: int, last: int | None, seconds: float, file: Path
) -> list[dict[str, Any]]:
    """Solve problem after problem for so long, and return all lines of the file."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    seed = max((line["next"] for line in lines), default=first)
    began, tree = time.perf_counter(), find_commit()
    while time.perf_counter() - began < seconds and (last is None or seed < last):
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        faults = []
        for one in range(seed, seed + _AT_ONCE):
            problem = draw(one)
            counted, found = solve(problem)
            counts[problem.method].update(counted)
            faults += [{"seed": one, "fault": fault, "about": problem.about} for fault in found]
        seed += _AT_ONCE
        line = {"next": seed, "commit": tree, "counts": counts, "faults": faults}
        lines.append(line)
        with file.open("a") as out:
            out.write(json.dumps(line) + "\n")
    return lines


def format_table(lines: list[dict[str, Any]]) -> list[str]:
    """Return the table of all lines, and their faults."""
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for line in lines:
        for method, counted in line["counts"].items():
            counts[method].update(counted)
            counts["all"].update(counted)
    rows = [
        [method, *(str(counts[method][name]) for name in COLUMNS)]
        for method in sorted(counts, key=lambda name: (name == "all", name))
    ]
    faults = [
        f"seed {found['seed']}: {found['fault']}; {found['about']}"
        for line in lines
        for found in line["faults"]
    ]
    trees = ", ".join(dict.fromkeys(line["commit"] for line in lines))
    return [*table(["method", *COLUMNS], rows), "", f"commit {trees}", *faults]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks random_hostile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--draw", choices=list(_DRAW), default="all", help="what is drawn")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="of a new file")
    parser.add_argument("--last", type=int, metavar="SEED", help="stop before this one")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--file", type=Path, required=True, help="JSON lines, continued if there")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, _give_up)
    draw = _DRAW[options.draw]
    lines = run(draw, options.first, options.last, options.seconds, options.file)
    print("\n".join(format_table(lines)))
    kinds = {found["fault"].split(":")[0] for line in lines for found in line["faults"]}
    return int(bool(kinds & set(FAULTS)))
