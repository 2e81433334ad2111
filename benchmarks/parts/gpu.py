"""Is everything right on one CUDA card, and how fast is it? It takes ten minutes.

    python -m benchmarks gpu [--minutes 10] [-k 500] [--quick] [--json FILE]

Checks come first, against float64 on the CPU and known values; if one fails, nothing is timed.
Then photos are solved together in growing numbers (`gpu_lock_step`), products are captured as
graphs (`gpu_graphs`), and problems are timed, the most important first, as long as there is time;
solvers take turns, each after a small solve that is not timed. All products are in the precision of
their dtype, while torch itself would use TF32 in convolutions. Without a card, one line says so and
nothing runs; with --quick everything runs in small sizes, on the CPU if need be, which tries the
script.
FILE holds every row as soon as it is measured, and may come from another machine: `python -m
benchmarks --store FILE` puts it among the results.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.judging import REACHED
from benchmarks.measure.peaks import copy_gbs, gemm_gflops
from benchmarks.measure.solve_run import SolveRun, finite_or_none, run_solver, warm_up
from benchmarks.measure.spread import Spread
from benchmarks.measure.timing import time_least
from benchmarks.parts import gpu_graphs, gpu_lock_step
from benchmarks.parts.gpu_checks import run_checks
from benchmarks.problems import networks
from benchmarks.problems.problem import JacobianProblem, OperatorProblem, Problem
from benchmarks.problems.references import Kind, Reference
from benchmarks.problems.spectra import SPECTRA, choose_shape, spectral
from benchmarks.solvers import OURS, SOLVERS, Target
from benchmarks.solvers.environment import why_absent
from jvpsvd import JacobianOperator, svds
from jvpsvd.machine import granted_memory
from jvpsvd.operators import full_precision
from jvpsvd.survey import PhotoSelection, Spec, run

_CHECK_K, _TOL, _WIDE_TOL = 10, 1e-4, 1e-9
_CHUNKS = (16, 32, 64, 128, 256, 512)
_VECTORS = 512
_ROUNDS, _TIGHTER_TOLERANCES = 2, 2
_COPIES = 3
"""How often a matrix that is materialised lies in memory: its chunks, all of it, and a factor."""
_TIME_FACTOR, _LEAST_SECONDS, _MOST_SECONDS = 12.0, 10.0, 90.0
_WHOLE_SIDE = 4096
"""The longest shorter side that is decomposed in full: a decomposition cannot be stopped."""
_DENSE = "torch-svd"
_ALONE = (OURS, "jvpsvd-golub-kahan")
_EVERYONE = (*_ALONE, "cupyx", "scipy-arpack", _DENSE, "torch-svd-lowrank-7")
_WIDTHS, _WIDTHS_AT = (8, 16, 32, 64), "_blocks.9"
_PHOTOS = 16
"""Photos of the survey: as many are solved together."""
_SHARE_TOGETHER = 0.4
"""Of the time, that photos solved together take at most."""
_SHARE_GRAPHS = 0.1
"""Of the time, that graphs of products take at most."""
_DEPTHS = ("_blocks.2", "_blocks.5", "_blocks.9", "_blocks.12", "_blocks.15", "output")


@dataclass(frozen=True)
class _Scale:
    device: str
    quick: bool


@dataclass(frozen=True)
class TimedProblem:
    """One problem, and the solvers that are timed on it."""

    name: str
    make: Callable[[], Problem]
    max_k: int = 500
    """Largest number of triplets that are wanted."""
    solvers: tuple[str, ...] = _EVERYONE
    values: Callable[[int], Tensor] | None = None
    """The true values, where they are known."""


def measure(minutes: float, k: int, quick: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows, each as soon as it is there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not quick:
        print("no CUDA device: the GPU part is skipped")
        return
    began = time.perf_counter()
    deadline = began + 60 * minutes
    right = True
    for row in run_checks(device):
        right = right and row["right"]
        yield row
    if not right:
        print("a check failed: nothing is timed")
        return
    with full_precision():  # TF32 would be the peak of another product
        peak = gemm_gflops(512 if quick else 8192, device=device)
    copied = copy_gbs(16 if quick else 1024, device=device)
    peaks = {"kind": "peaks", "gemm_gflops": peak, "copy_gbs": copied}
    print("peaks: {gemm_gflops:.0f} GFLOP/s, {copy_gbs:.0f} GB/s".format(**peaks))
    yield peaks
    setting = replace(gpu_lock_step.TINY if quick else gpu_lock_step.Setting(k=k), device=device)
    yield from _guarded("together", gpu_lock_step.measure(
        setting, began + 60 * _SHARE_TOGETHER * minutes
    ))  # fmt: skip
    graphs = replace(gpu_graphs.TINY if quick else gpu_graphs.Setting(), device=device)
    until = time.perf_counter() + 60 * _SHARE_GRAPHS * minutes
    yield from _guarded("graphs", gpu_graphs.measure(graphs, until))
    yield from time_problems(k, deadline, _Scale(device, quick))


def time_problems(k: int, deadline: float, scale: _Scale) -> Iterator[dict[str, Any]]:
    """Time solvers in two rounds, and a survey, as long as there is time."""
    for timed in _timed_problems(scale):
        if deadline - time.perf_counter() < 3 * _LEAST_SECONDS:
            print(f"{timed.name}: skipped, no time is left")
            continue
        if timed.name == "survey":
            rows = time_survey(k, scale)
        elif timed.name == "widths":
            rows = time_widths(k, scale)
        else:
            rows = _time_problem(timed, k, deadline, scale)
        yield from _guarded(timed.name, rows)


def _guarded(name: str, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of one problem; where it fails, a row that says so."""
    try:
        yield from rows
    except networks.UnavailableError as error:
        print(f"{name}: skipped, {error}")
    except Exception as error:  # the card is lent for minutes: the other problems go on
        print(f"{name}: FAILED, {type(error).__name__}: {error}", flush=True)
        note = f"{type(error).__name__}: {error}"[:200]
        yield {"kind": "failure", "problem": name, "note": note}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def time_survey(k: int, scale: _Scale) -> Iterator[dict[str, Any]]:
    """Time `jvpsvd run` on the demo's photos, k triplets at six depths; a row of each depth."""
    depths, photos = (_DEPTHS[-2:], 2) if scale.quick else (_DEPTHS, _PHOTOS)
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec(
            out=folder,
            k=k,
            tol=_TOL,
            layers=depths,
            photos=PhotoSelection(limit=photos, choice="first"),
            vectors=False,
            device=scale.device,
        )
        began = time.perf_counter()
        outcome = run(spec, report=False)
        seconds = time.perf_counter() - began
        stored = list(outcome.store.rows())
        together = outcome.store.identity.batch
    for depth in depths:
        rows = [row for row in stored if row.layer == depth and row.status == "ok"]
        if not rows:
            print(f"survey {depth}: no row is ok")
            continue
        spread = Spread.of([row.seconds for row in rows])
        met = sum(row.converged == row.k for row in rows)
        print(f"survey {depth:12} {spread} s a photo; {met} of {len(rows)} photos converged")
        yield {
            "kind": "survey",
            "problem": f"survey/{depth}",
            "k": rows[0].k,
            "tol": _TOL,
            "seconds": spread.to_json(),
            "products": rows[0].products_forward + rows[0].products_reverse,
            "converged_photos": met,
            "photos": len(rows),
            "together": together,
            "whole_run": seconds,
        }


def time_widths(k: int, scale: _Scale) -> Iterator[dict[str, Any]]:
    """Time our solver with blocks of several widths; `svds` takes 32 for so many triplets."""
    J = networks.lite0(_WIDTHS_AT, scale.device).operator()
    with full_precision():
        svds(J, _CHECK_K, tol=1e-2, on_unconverged="ignore")
        for width in _WIDTHS[:1] if scale.quick else _WIDTHS:
            found = [
                svds(J, k, tol=_TOL, method="golub-kahan", block_size=width) for _ in range(_ROUNDS)
            ]
            spread = Spread.of([result.seconds for result in found])
            print(f"blocks of {width:2}, {_WIDTHS_AT}: {spread} s", flush=True)
            yield {
                "kind": "width",
                "problem": f"widths/lite0/{_WIDTHS_AT}",
                "k": k,
                "block_size": width,
                "seconds": spread.to_json(),
                "products": found[-1].products.total,
            }


def _time_problem(
    timed: TimedProblem, k: int, deadline: float, scale: _Scale
) -> Iterator[dict[str, Any]]:
    problem = timed.make()
    count = min(k, timed.max_k, min(problem.shape[-2:]) - 1)
    single = isinstance(problem, JacobianProblem) and len(problem.shape) == 2
    floor = _floor(problem, count, scale) if single else None
    left = deadline - time.perf_counter()
    budget = 1.0 if scale.quick else min(_MOST_SECONDS, left / 3)
    truth = _find_reference(timed, problem, count, budget)
    found: dict[str, list[dict[str, Any]]] = {}
    for solver in timed.solvers:
        if _takes_part(solver, problem, found):
            with full_precision():
                warm_up(SOLVERS[solver], scale.device)
    for _ in range(_ROUNDS):
        for solver in timed.solvers:
            left = deadline - time.perf_counter()
            if left < _LEAST_SECONDS or not _takes_part(solver, problem, found):
                continue
            ours = found.get(OURS, [{"seconds": _MOST_SECONDS}])[0]["seconds"]
            budget = min(left, _MOST_SECONDS, max(_LEAST_SECONDS, _TIME_FACTOR * ours))
            row, first = _solve_to_residual(solver, problem, count, budget, truth)
            truth = truth or first
            found.setdefault(solver, []).append(row)
    for solver, rounds in found.items():
        spread = Spread.of([row["seconds"] for row in rounds])
        last = rounds[-1]
        text = f"{last.get('outcome')} {spread} s, products {last['product_seconds']:.2f} s"
        print(f"{timed.name:24} {solver:20} {text}, floor {floor} {last['note'][:60]}", flush=True)
        yield {
            "kind": "time",
            "problem": timed.name,
            "shape": list(problem.shape),
            "k": count,
            "tol": _TOL,
            "solver": solver,
            "floor": floor,
            "reference": truth.kind if truth else None,
            **last,
            "seconds": spread.to_json(),
        }


def _solve_to_residual(
    solver: str, problem: Problem, k: int, budget: float, truth: Reference | None
) -> tuple[dict[str, Any], Reference | None]:
    """Return the row of one solve, at a tighter tolerance if it needs one, and its reference."""
    row, own = _solve(solver, problem, k, _TOL, budget, truth)
    for tighter_by in range(1, _TIGHTER_TOLERANCES + 1 if SOLVERS[solver].takes_tolerance else 1):
        if row["outcome"] != "silent":
            break
        tighter, own = _solve(solver, problem, k, _TOL / 10**tighter_by, budget, truth)
        if tighter["outcome"] in REACHED:
            return tighter, own
    return row, own


def _solve(
    solver: str, problem: Problem, k: int, tol: float, budget: float, truth: Reference | None
) -> tuple[dict[str, Any], Reference | None]:
    on_card = problem.operator().device.type == "cuda"
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with full_precision():
        solve_run = run_solver(SOLVERS[solver], Target(problem), k, tol, budget)
    row: dict[str, Any] = {
        "own_tol": tol,
        "seconds": solve_run.seconds,
        "product_seconds": solve_run.product_seconds,
        "setup_seconds": solve_run.setup_seconds,
        "products": solve_run.forward + solve_run.reverse,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_card else 0,
        "note": solve_run.note[:120],
    }
    own = _reference_of(solve_run, "self") if solver == OURS else None
    judge = truth or own
    if judge is None:
        return {**row, "outcome": "unable" if solve_run.unable else "honest"}, None
    judgement = solve_run.judge(judge, problem.operator(), _TOL)
    row |= {
        "outcome": judgement.outcome,
        "residual": finite_or_none(judgement.residual),
        "value_error": finite_or_none(judgement.value_error),
    }
    return row, own


def _takes_part(solver: str, problem: Problem, found: dict[str, list[dict[str, Any]]]) -> bool:
    if solver == _DENSE and min(problem.shape[-2:]) > _WHOLE_SIDE:
        return False
    m, n = problem.shape[-2:]
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else granted_memory()
    if SOLVERS[solver].materialises and _COPIES * problem.dtype.itemsize * m * n > free:
        return False
    before = found.get(solver)
    if before is None:
        return why_absent(SOLVERS[solver]) is None
    return bool(before[-1]["outcome"] in REACHED)


def _find_reference(
    timed: TimedProblem, problem: Problem, k: int, budget: float
) -> Reference | None:
    """Return the known values, or those that a certified solve in float64 finds in time."""
    if timed.values is not None:
        return Reference(timed.values(k), "exact")
    began = time.perf_counter()
    solve_run = run_solver(SOLVERS[OURS], Target(problem.double()), k, _WIDE_TOL, budget)
    found = _reference_of(solve_run, "certified")
    kind = "certified" if found else f"none, {solve_run.note}"
    print(f"{timed.name}: float64 reference {kind}, {time.perf_counter() - began:.1f} s")
    return found


def _reference_of(solve_run: SolveRun, kind: Kind) -> Reference | None:
    if not solve_run.answers or not all(answer.said_converged for answer in solve_run.answers):
        return None
    values = torch.stack([answer.s.double().cpu() for answer in solve_run.answers])
    return Reference(values[0] if len(values) == 1 else values, kind)


def _timed_problems(scale: _Scale) -> Iterator[TimedProblem]:
    device = scale.device

    def lite0(depth: str) -> TimedProblem:
        return TimedProblem(f"lite0/{depth}", lambda: networks.lite0(depth, device))

    def harmonic(n: int) -> TimedProblem:
        def make() -> Problem:
            return OperatorProblem(lambda: spectral("1/i", n, device=device))

        def values(k: int) -> Tensor:
            return SPECTRA["1/i"].values(k, min(choose_shape(n)))

        return TimedProblem(f"1/i/n={n:.0e}".replace("e+0", "e"), make, values=values)

    if scale.quick:
        yield from (replace(one, solvers=_ALONE[:1]) for one in (lite0("output"), harmonic(10**3)))
        yield TimedProblem("widths", lambda: networks.lite0(_WIDTHS_AT))
        yield TimedProblem("survey", lambda: networks.lite0("output"))
        return
    yield from (lite0("_blocks.9"), lite0("output"))
    yield TimedProblem("widths", lambda: networks.lite0(_WIDTHS_AT))
    yield TimedProblem("survey", lambda: networks.lite0("output"))
    yield from (lite0("_blocks.15"), harmonic(10**6))
    yield TimedProblem("alexnet-random/features.12", lambda: networks.alexnet_random(device))
    yield TimedProblem("digits/1000", lambda: networks.digits(1000, device), 100, _ALONE[:1])
    yield lite0("_blocks.2")
    yield harmonic(10**7)


def _floor(problem: JacobianProblem, k: int, scale: _Scale) -> float:
    best = [float("inf")] * 2
    vectors, device = 8 if scale.quick else _VECTORS, scale.device
    for chunk in _CHUNKS[:1] if scale.quick else _CHUNKS:
        J = JacobianOperator(problem.function, problem.point, chunk=chunk)
        V, U = (torch.randn(vectors, size, device=device).T for size in reversed(J.shape))
        for side, work in enumerate((lambda J=J, V=V: J.matmat(V), lambda J=J, U=U: J.rmatmat(U))):
            best[side] = min(best[side], time_least(work, 1, device) / vectors)
    return k * sum(best)
