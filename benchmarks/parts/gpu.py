"""Is everything right on one CUDA card, and how fast is it? It takes ten minutes.

    python -m benchmarks gpu [--minutes 10] [-k 500] [--json FILE]

Checks come first, against float64 on the CPU and known values; if one fails, nothing is timed.
Then problems are timed, the most important first, as long as there is time; solvers take turns,
each after a small solve that is not timed. All products are in the precision of their dtype, while
torch itself would use TF32 in convolutions. Without a card, one line says so and nothing runs.
FILE holds every row as soon as it is measured, and may come from another machine: `python -m
benchmarks --store FILE` puts it among the results.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.judging import REACHED
from benchmarks.measure.peaks import copy_gbs, gemm_gflops
from benchmarks.measure.solve_run import SolveRun, finite_or_none, run_solver, warm_up
from benchmarks.measure.spread import Spread
from benchmarks.measure.timing import time_least
from benchmarks.problems import networks
from benchmarks.problems.problem import JacobianProblem, OperatorProblem, Problem
from benchmarks.problems.references import Kind, Reference
from benchmarks.problems.spectra import SPECTRA, choose_shape, spectral
from benchmarks.solvers import OURS, SOLVERS, Target
from benchmarks.solvers.environment import why_absent
from jvpsvd import JacobianOperator, svds
from jvpsvd.operators import full_precision
from jvpsvd.survey import Spec, run

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
_DEPTHS = ("_blocks.2", "_blocks.5", "_blocks.9", "_blocks.12", "_blocks.15", "output")


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


def measure(minutes: float, k: int) -> Iterator[dict[str, Any]]:
    """Yield the rows, each as soon as it is there."""
    if not torch.cuda.is_available():
        print("no CUDA device: the GPU part is skipped")
        return
    deadline = time.perf_counter() + 60 * minutes
    right = True
    for row in run_checks():
        right = right and row["right"]
        yield row
    if not right:
        print("a check failed: nothing is timed")
        return
    with full_precision():  # TF32 would be the peak of another product
        peak = gemm_gflops(8192, device="cuda")
    peaks = {"kind": "peaks", "gemm_gflops": peak, "copy_gbs": copy_gbs(1024, device="cuda")}
    print("peaks: {gemm_gflops:.0f} GFLOP/s, {copy_gbs:.0f} GB/s".format(**peaks))
    yield peaks
    yield from time_problems(k, deadline)


def run_checks() -> Iterator[dict[str, Any]]:
    """Compare products, values and triplets on the card with the CPU's in float64."""
    for name, find_error in (
        ("products of a perceptron", _products_error),
        ("values of a perceptron", _values_error),
        *((f"values, {s}", lambda s=s: _spectrum_error(s)) for s in ("1/i", "repeated", "flat")),
    ):
        try:
            error: float | None = find_error()
            note = ""
        except Exception as failure:
            error, note = None, f"{type(failure).__name__}: {failure}"
        right = error is not None and error <= 1e-5
        print(f"check {name:28} {'right' if right else 'WRONG'} {error} {note}", flush=True)
        yield {"kind": "check", "name": name, "right": right, "error": error, "note": note}


def time_problems(k: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Time solvers in two rounds, and a survey, as long as there is time."""
    for timed in _timed_problems():
        if deadline - time.perf_counter() < 3 * _LEAST_SECONDS:
            print(f"{timed.name}: skipped, no time is left")
            continue
        try:
            if timed.name == "survey":
                yield from time_survey(k)
            elif timed.name == "widths":
                yield from time_widths(k)
            else:
                yield from _time_problem(timed, timed.make(), k, deadline)
        except networks.UnavailableError as error:
            print(f"{timed.name}: skipped, {error}")
        except Exception as error:  # the card is lent for minutes: the other problems go on
            print(f"{timed.name}: FAILED, {type(error).__name__}: {error}", flush=True)
            note = f"{type(error).__name__}: {error}"[:200]
            yield {"kind": "failure", "problem": timed.name, "note": note}
        torch.cuda.empty_cache()


def time_survey(k: int) -> Iterator[dict[str, Any]]:
    """Time `jvpsvd run` on the demo's photos, k triplets at six depths; a row of each depth."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec(
            out=folder, k=k, tol=_TOL, layers=_DEPTHS, limit=6, choice="first", device="cuda"
        )
        began = time.perf_counter()
        outcome = run(spec, report=False)
        seconds = time.perf_counter() - began
        stored = list(outcome.store.rows())
    for depth in _DEPTHS:
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
            "whole_run": seconds,
        }


def time_widths(k: int) -> Iterator[dict[str, Any]]:
    """Time our solver with blocks of several widths; `svds` takes 32 for so many triplets."""
    J = networks.lite0(_WIDTHS_AT, "cuda").operator()
    with full_precision():
        svds(J, _CHECK_K, tol=1e-2, on_unconverged="ignore")
        for width in _WIDTHS:
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
    timed: TimedProblem, problem: Problem, k: int, deadline: float
) -> Iterator[dict[str, Any]]:
    count = min(k, timed.max_k, min(problem.shape[-2:]) - 1)
    single = isinstance(problem, JacobianProblem) and len(problem.shape) == 2
    floor = _floor(problem, count) if single else None
    left = deadline - time.perf_counter()
    truth = _find_reference(timed, problem, count, min(_MOST_SECONDS, left / 3))
    found: dict[str, list[dict[str, Any]]] = {}
    for solver in timed.solvers:
        if _takes_part(solver, problem, found):
            with full_precision():
                warm_up(SOLVERS[solver], "cuda")
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
        "peak_bytes": torch.cuda.max_memory_allocated(),
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
    free = torch.cuda.mem_get_info()[0]
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


def _timed_problems() -> Iterator[TimedProblem]:
    def lite0(depth: str) -> TimedProblem:
        return TimedProblem(f"lite0/{depth}", lambda: networks.lite0(depth, "cuda"))

    def harmonic(n: int) -> TimedProblem:
        def make() -> Problem:
            return OperatorProblem(lambda: spectral("1/i", n, device="cuda"))

        def values(k: int) -> Tensor:
            return SPECTRA["1/i"].values(k, min(choose_shape(n)))

        return TimedProblem(f"1/i/n={n:.0e}".replace("e+0", "e"), make, values=values)

    yield from (lite0("_blocks.9"), lite0("output"))
    yield TimedProblem("widths", lambda: networks.lite0(_WIDTHS_AT))
    yield TimedProblem("survey", lambda: networks.lite0("output"))
    yield from (lite0("_blocks.15"), harmonic(10**6))
    yield TimedProblem("alexnet-random/features.12", lambda: networks.alexnet_random("cuda"))
    yield TimedProblem("digits/1000", lambda: networks.digits(1000, "cuda"), 100, _ALONE[:1])
    yield lite0("_blocks.2")
    yield harmonic(10**7)


def _floor(problem: JacobianProblem, k: int) -> float:
    best = [float("inf")] * 2
    for chunk in _CHUNKS:
        J = JacobianOperator(problem.function, problem.point, chunk=chunk)
        V, U = (torch.randn(_VECTORS, size, device="cuda").T for size in reversed(J.shape))
        for side, work in enumerate((lambda J=J, V=V: J.matmat(V), lambda J=J, U=U: J.rmatmat(U))):
            best[side] = min(best[side], time_least(work, 1, "cuda") / _VECTORS)
    return k * sum(best)


def _products_error() -> float:
    here, there = networks.perceptron(), networks.perceptron("cuda")
    dense = here.double().dense()
    J = there.operator()
    V = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    U = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    forward = (J.matmat(V.cuda()).cpu().double() - dense @ V.double()).norm() / (dense.norm())
    reverse = (J.rmatmat(U.cuda()).cpu().double() - dense.T @ U.double()).norm() / (dense.norm())
    return float(torch.maximum(forward, reverse))


def _values_error() -> float:
    truth = torch.linalg.svdvals(networks.perceptron().double().dense())[:_CHECK_K]
    J = networks.perceptron("cuda").operator()
    found = [svds(J, _CHECK_K, tol=1e-5, method=m).s for m in ("exact", "golub-kahan")]
    return max(float((s.double().cpu() - truth).abs().max() / truth[0]) for s in found)


def _spectrum_error(name: str) -> float:
    truth = SPECTRA[name].values(_CHECK_K, min(choose_shape(10**4)))
    result = svds(spectral(name, 10**4, device="cuda"), _CHECK_K, tol=1e-5)
    return float((result.s.double().cpu() - truth).abs().max() / truth[0])
