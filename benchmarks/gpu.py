"""On one CUDA card, in ten minutes: is everything right, and then, how fast is it?

    python -m benchmarks.gpu [--minutes 10] [-k 500] [--json FILE]

Checks come first, against float64 on the CPU and known values; if one fails, nothing is timed.
Times follow in the order of what matters most, each only if the time left allows it; sides take
turns, each after a small solve that is not timed. All products are in the precision of their dtype:
torch's own would use TF32 in convolutions. Without a card it says so in one line, and that is all.
FILE may come from another machine: `python -m benchmarks --store FILE` puts it among the results.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.attempts import Attempt, attempt, finite, warm_up
from benchmarks.children import why_absent
from benchmarks.judging import REACHED
from benchmarks.machine import commit, described_machine
from benchmarks.peaks import copy_gbs, gemm_gflops, least_seconds
from benchmarks.peers import OURS, PEERS, Target
from benchmarks.record import Record, without_nan, write_records
from benchmarks.references import Kind, Reference
from benchmarks.spectra import SPECTRA, spectral, spectral_shape
from benchmarks.statistics_of_rounds import Spread
from benchmarks.subjects import FunctionSubject, OperatorSubject, Subject
from jvpsvd import JacobianOperator, svds
from jvpsvd.operators import full_precision
from jvpsvd.survey import PhotoSelection, Spec, run

_CHECK_K, _TOL, _WIDE_TOL = 10, 1e-4, 1e-9
_CHUNKS = (16, 32, 64, 128, 256, 512)
_VECTORS = 512
_ROUNDS, _RUNGS = 2, 2
_COPIES = 3
"""Of a matrix that is materialised in chunks: these, all of it, and a factor."""
_PATIENCE, _LEAST_SECONDS, _MOST_SECONDS = 12.0, 10.0, 90.0
_WHOLE_SIDE = 4096
"""Shorter sides up to which every value is asked for: a decomposition cannot be stopped in time."""
_DENSE = "torch-svd"
_ALONE = (OURS, "jvpsvd-golub-kahan")
_EVERYONE = (*_ALONE, "cupyx", "scipy-arpack", _DENSE, "torch-svd-lowrank-7")
_WIDTHS, _WIDTHS_AT = (8, 16, 32, 64), "_blocks.9"
_DEPTHS = ("_blocks.2", "_blocks.5", "_blocks.9", "_blocks.12", "_blocks.15", "output")


@dataclass(frozen=True)
class Setting:
    """One problem, and who is set on it."""

    name: str
    make: Callable[[], Subject]
    most: int = 500
    """Triplets that are asked for at most."""
    solvers: tuple[str, ...] = _EVERYONE
    values: Callable[[int], Tensor] | None = None
    """The true ones, where they are known."""


def measure(minutes: float, k: int) -> list[dict[str, Any]]:
    """Return the rows of checks and times; none without a card."""
    return list(measured(minutes, k))


def measured(minutes: float, k: int) -> Iterator[dict[str, Any]]:
    """Yield the rows, each as soon as it is there."""
    if not torch.cuda.is_available():
        print("no CUDA device: the GPU part is skipped")
        return
    deadline = time.perf_counter() + 60 * minutes
    right = True
    for row in checks():
        right = right and row["right"]
        yield row
    if not right:
        print("a check failed: nothing is timed")
        return
    with full_precision():  # TF32 would be the peak of another product
        peak = gemm_gflops(8192, device="cuda")
    peaks = {"kind": "peaks", "gemm_gflops": peak, "copy_gbs": _copy()}
    print("peaks: {gemm_gflops:.0f} GFLOP/s, {copy_gbs:.0f} GB/s".format(**peaks))
    yield peaks
    yield from times(k, deadline)


def checks() -> Iterator[dict[str, Any]]:
    """Compare products, values and triplets on the card with the CPU's in float64."""
    for name, measured in (
        ("products of a perceptron", _products),
        ("values of a perceptron", _values),
        *((f"values, {s}", lambda s=s: _spectrum(s)) for s in ("1/i", "repeated", "flat")),
    ):
        try:
            error: float | None = measured()
            note = ""
        except Exception as failure:
            error, note = None, f"{type(failure).__name__}: {failure}"
        right = error is not None and error <= 1e-5
        print(f"check {name:28} {'right' if right else 'WRONG'} {error} {note}", flush=True)
        yield {"kind": "check", "name": name, "right": right, "error": error, "note": note}


def times(k: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Time solvers in two rounds, and a survey, as long as there is time."""
    for setting in _settings():
        if deadline - time.perf_counter() < 3 * _LEAST_SECONDS:
            print(f"{setting.name}: skipped, no time is left")
            continue
        try:
            if setting.name == "survey":
                yield from survey(k)
            elif setting.name == "widths":
                yield from widths(k)
            else:
                yield from _of_problem(setting, setting.make(), k, deadline)
        except networks.UnavailableError as error:
            print(f"{setting.name}: skipped, {error}")
        except Exception as error:  # the card is lent for minutes: the other problems go on
            print(f"{setting.name}: FAILED, {type(error).__name__}: {error}", flush=True)
            note = f"{type(error).__name__}: {error}"[:200]
            yield {"kind": "failure", "problem": setting.name, "note": note}
        torch.cuda.empty_cache()


def survey(k: int) -> Iterator[dict[str, Any]]:
    """Time `jvpsvd run` on the demo's photos, k triplets at six depths; a row of each depth."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Spec(
            out=folder,
            k=k,
            tol=_TOL,
            layers=_DEPTHS,
            photos=PhotoSelection(limit=6, choice="first"),
            device="cuda",
        )
        began = time.perf_counter()
        outcome = run(spec)
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


def widths(k: int) -> Iterator[dict[str, Any]]:
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


def _of_problem(
    setting: Setting, subject: Subject, k: int, deadline: float
) -> Iterator[dict[str, Any]]:
    count = min(k, setting.most, min(subject.shape[-2:]) - 1)
    single = isinstance(subject, FunctionSubject) and len(subject.shape) == 2
    floor = _floor(subject, count) if single else None
    left = deadline - time.perf_counter()
    truth = _truth(setting, subject, count, min(_MOST_SECONDS, left / 3))
    found: dict[str, list[dict[str, Any]]] = {}
    for solver in setting.solvers:
        if _goes_on(solver, subject, found):
            with full_precision():
                warm_up(PEERS[solver], "cuda")
    for _ in range(_ROUNDS):
        for solver in setting.solvers:
            left = deadline - time.perf_counter()
            if left < _LEAST_SECONDS or not _goes_on(solver, subject, found):
                continue
            ours = found.get(OURS, [{"seconds": _MOST_SECONDS}])[0]["seconds"]
            budget = min(left, _MOST_SECONDS, max(_LEAST_SECONDS, _PATIENCE * ours))
            row, first = _attempted(solver, subject, count, budget, truth)
            truth = truth or first
            found.setdefault(solver, []).append(row)
    for solver, rounds in found.items():
        spread = Spread.of([row["seconds"] for row in rounds])
        last = rounds[-1]
        told = f"{last.get('outcome')} {spread} s, products {last['product_seconds']:.2f} s"
        print(
            f"{setting.name:24} {solver:20} {told}, floor {floor} {last['note'][:60]}", flush=True
        )
        yield {
            "kind": "time",
            "problem": setting.name,
            "shape": list(subject.shape),
            "k": count,
            "tol": _TOL,
            "solver": solver,
            "floor": floor,
            "reference": truth.kind if truth else None,
            **last,
            "seconds": spread.to_json(),
        }


def _attempted(
    solver: str, subject: Subject, k: int, budget: float, truth: Reference | None
) -> tuple[dict[str, Any], Reference | None]:
    """Return the row of one solve, and what it would be as a reference."""
    row, own = _solved(solver, subject, k, _TOL, budget, truth)
    for rung in range(1, _RUNGS + 1 if PEERS[solver].ladder else 1):
        if row["outcome"] != "silent":
            break
        tighter, own = _solved(solver, subject, k, _TOL / 10**rung, budget, truth)
        if tighter["outcome"] in REACHED:
            return tighter, own
    return row, own


def _solved(
    solver: str, subject: Subject, k: int, tol: float, budget: float, truth: Reference | None
) -> tuple[dict[str, Any], Reference | None]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with full_precision():
        tried = attempt(PEERS[solver], Target(subject), k, tol, budget)
    row: dict[str, Any] = {
        "own_tol": tol,
        "seconds": tried.seconds,
        "product_seconds": tried.product_seconds,
        "setup_seconds": tried.setup_seconds,
        "products": tried.forward + tried.reverse,
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "note": tried.note[:120],
    }
    own = _reference_of(tried, "self") if solver == OURS else None
    judge = truth or own
    if judge is None:
        return {**row, "outcome": "unable" if tried.unable else "honest"}, None
    judgement = tried.judged(judge, subject.operator(), _TOL)
    row |= {
        "outcome": judgement.outcome,
        "residual": finite(judgement.residual),
        "value_error": finite(judgement.value_error),
    }
    return row, own


def _goes_on(solver: str, subject: Subject, found: dict[str, list[dict[str, Any]]]) -> bool:
    if solver == _DENSE and min(subject.shape[-2:]) > _WHOLE_SIDE:
        return False
    m, n = subject.shape[-2:]
    free = torch.cuda.mem_get_info()[0]
    if PEERS[solver].materialises and _COPIES * subject.dtype.itemsize * m * n > free:
        return False
    before = found.get(solver)
    if before is None:
        return why_absent(PEERS[solver]) is None
    return bool(before[-1]["outcome"] in REACHED)


def _truth(setting: Setting, subject: Subject, k: int, budget: float) -> Reference | None:
    """Return the known values, or those that a certified solve in float64 finds in time."""
    if setting.values is not None:
        return Reference(setting.values(k), "exact")
    began = time.perf_counter()
    tried = attempt(PEERS[OURS], Target(subject.double()), k, _WIDE_TOL, budget)
    found = _reference_of(tried, "certified")
    told = "certified" if found else f"none, {tried.note}"
    print(f"{setting.name}: float64 reference {told}, {time.perf_counter() - began:.1f} s")
    return found


def _reference_of(tried: Attempt, kind: Kind) -> Reference | None:
    if not tried.answers or not all(answer.said_converged for answer in tried.answers):
        return None
    values = torch.stack([answer.s.double().cpu() for answer in tried.answers])
    return Reference(values[0] if len(values) == 1 else values, kind)


def _settings() -> Iterator[Setting]:
    def lite0(depth: str) -> Setting:
        return Setting(f"lite0/{depth}", lambda: networks.lite0(depth, "cuda"))

    def harmonic(n: int) -> Setting:
        def make() -> Subject:
            return OperatorSubject(lambda: spectral("1/i", n, device="cuda"))

        def values(k: int) -> Tensor:
            return SPECTRA["1/i"].values(k, min(spectral_shape(n)))

        return Setting(f"1/i/n={n:.0e}".replace("e+0", "e"), make, values=values)

    yield from (lite0("_blocks.9"), lite0("output"))
    yield Setting("widths", lambda: networks.lite0(_WIDTHS_AT))
    yield Setting("survey", lambda: networks.lite0("output"))
    yield from (lite0("_blocks.15"), harmonic(10**6))
    yield Setting("alexnet-random/features.12", lambda: networks.alexnet_random("cuda"))
    yield Setting("digits/1000", lambda: networks.digits(1000, "cuda"), 100, _ALONE[:1])
    yield lite0("_blocks.2")
    yield harmonic(10**7)


def _floor(subject: FunctionSubject, k: int) -> float:
    best = [float("inf")] * 2
    for chunk in _CHUNKS:
        J = JacobianOperator(subject.function, subject.point, chunk=chunk)
        V, U = (torch.randn(_VECTORS, size, device="cuda").T for size in reversed(J.shape))
        for side, work in enumerate((lambda J=J, V=V: J.matmat(V), lambda J=J, U=U: J.rmatmat(U))):
            best[side] = min(best[side], least_seconds(work, 1, "cuda") / _VECTORS)
    return k * sum(best)


def _products() -> float:
    here, there = networks.perceptron(), networks.perceptron("cuda")
    dense = here.double().dense()
    J = there.operator()
    V = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    U = torch.randn(120, 8, generator=torch.Generator().manual_seed(1))
    ahead = (J.matmat(V.cuda()).cpu().double() - dense @ V.double()).norm() / (dense.norm())
    back = (J.rmatmat(U.cuda()).cpu().double() - dense.T @ U.double()).norm() / (dense.norm())
    return float(torch.maximum(ahead, back))


def _values() -> float:
    truth = torch.linalg.svdvals(networks.perceptron().double().dense())[:_CHECK_K]
    J = networks.perceptron("cuda").operator()
    found = [svds(J, _CHECK_K, tol=1e-5, method=m).s for m in ("exact", "golub-kahan")]
    return max(float((s.double().cpu() - truth).abs().max() / truth[0]) for s in found)


def _spectrum(name: str) -> float:
    truth = SPECTRA[name].values(_CHECK_K, min(spectral_shape(10**4)))
    result = svds(spectral(name, 10**4, device="cuda"), _CHECK_K, tol=1e-5)
    return float((result.s.double().cpu() - truth).abs().max() / truth[0])


def _copy() -> float:
    return copy_gbs(1024, device="cuda")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    machine, began, tree = described_machine(), time.perf_counter(), commit()
    rows: list[dict[str, Any]] = []
    for row in measured(asked.minutes, asked.k):
        created = datetime.now(UTC).isoformat(timespec="seconds")
        rows.append(without_nan({**row, "commit": tree, "created": created}))
        if asked.json:  # at once: the card may be taken away
            record = Record(
                part="gpu",
                quick=asked.minutes < 5,
                created=created,
                commit=tree,
                seconds=time.perf_counter() - began,
                machine=machine,
                settings={"minutes": asked.minutes, "k": asked.k},
                rows=rows,
            )
            write_records([record], asked.json)


if __name__ == "__main__":
    main()
