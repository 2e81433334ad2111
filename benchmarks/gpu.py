"""On one CUDA card, in ten minutes: is everything right, and then, how fast is it?

    python -m benchmarks.gpu [--minutes 10] [-k 500] [--json FILE]

Checks come first, against float64 on the CPU; if one fails, nothing is timed. Times follow in the
order of what matters most, each only if the time left allows it; sides take turns. Without a card
it says so in one line, and that is all.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import networks
from benchmarks.attempts import attempt, finite
from benchmarks.children import why_absent
from benchmarks.machine import commit, described_machine
from benchmarks.peaks import copy_gbs, gemm_gflops, least_seconds
from benchmarks.peers import PEERS, Target
from benchmarks.record import Record, without_nan, write_records
from benchmarks.references import Reference
from benchmarks.spectra import SPECTRA, spectral, spectral_shape
from benchmarks.statistics_of_rounds import Spread
from benchmarks.subjects import FunctionSubject, OperatorSubject, Subject
from jvpsvd import JacobianOperator, svds

_CHECK_K, _TOL = 10, 1e-4
_CHUNKS = (8, 16, 32, 64)
_SOLVERS = ("jvpsvd", "jvpsvd-golub-kahan", "cupyx", "torch-svd", "torch-svd-lowrank-7")


def measure(minutes: float, k: int) -> list[dict[str, Any]]:
    """Return the rows of checks and times; none without a card."""
    if not torch.cuda.is_available():
        print("no CUDA device: the GPU part is skipped")
        return []
    deadline = time.perf_counter() + 60 * minutes
    rows = list(checks())
    if not all(row["right"] for row in rows):
        print("a check failed: nothing is timed")
        return rows
    rows.append(
        {"kind": "peaks", "gemm_gflops": gemm_gflops(8192, device="cuda"), "copy_gbs": _copy()}
    )
    rows += times(k, deadline)
    return rows


def checks() -> Iterator[dict[str, Any]]:
    """Compare products, values and triplets on the card with the CPU's in float64."""
    for name, run in (
        ("products of a perceptron", _products),
        ("values of a perceptron", _values),
        *((f"values, {s}", lambda s=s: _spectrum(s)) for s in ("1/i", "repeated", "flat")),
    ):
        try:
            error: float | None = run()
            note = ""
        except Exception as failure:
            error, note = None, f"{type(failure).__name__}: {failure}"
        right = error is not None and error <= 1e-5
        print(f"check {name:28} {'right' if right else 'WRONG'} {error} {note}", flush=True)
        yield {"kind": "check", "name": name, "right": right, "error": error, "note": note}


def times(k: int, deadline: float) -> Iterator[dict[str, Any]]:
    """Time every solver that is there, in two rounds, as long as there is time."""
    for name, make in _subjects():
        try:
            subject = make()
        except networks.UnavailableError as error:
            print(f"{name}: skipped, {error}")
            continue
        count = min(k, min(subject.shape) - 1)
        floor = _floor(subject, count) if isinstance(subject, FunctionSubject) else None
        truth: Tensor | None = None
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(2):
            for solver in _SOLVERS:
                left = deadline - time.perf_counter()
                absent = why_absent(PEERS[solver])
                if (
                    absent
                    or left < 30
                    or found.get(solver, [{"outcome": "right"}])[-1]["outcome"]
                    not in ("right", "unsure")
                ):
                    continue
                torch.cuda.reset_peak_memory_stats()
                target = Target(subject)
                tried = attempt(PEERS[solver], target, count, _TOL, min(left, 120))
                if truth is None and tried.answers:
                    truth = tried.answers[0].s.double().cpu()
                row: dict[str, Any] = {"seconds": tried.seconds, "note": tried.note[:120]}
                if truth is not None:
                    judgement = tried.judged(
                        Reference(truth, "certified"), subject.operator(), _TOL
                    )
                    row |= {
                        "outcome": judgement.outcome,
                        "residual": finite(judgement.residual),
                        "value_error": finite(judgement.value_error),
                    }
                row["peak_bytes"] = torch.cuda.max_memory_allocated()
                row["products"] = tried.forward + tried.reverse
                found.setdefault(solver, []).append(row)
        for solver, rounds in found.items():
            spread = Spread.of([row["seconds"] for row in rounds])
            print(f"{name:24} {solver:20} {rounds[-1].get('outcome')} {spread} s, floor {floor}")
            yield {
                "kind": "time",
                "problem": name,
                "shape": list(subject.shape),
                "k": count,
                "tol": _TOL,
                "solver": solver,
                "floor": floor,
                **rounds[-1],
                "seconds": spread.to_json(),
            }


def _subjects() -> Iterator[tuple[str, Callable[[], Subject]]]:
    for depth in ("_blocks.9", "output", "_blocks.2"):
        yield f"lite0/{depth}", lambda depth=depth: networks.lite0(depth, "cuda")
    yield "1/i/n=1e6", lambda: OperatorSubject(lambda: spectral("1/i", 10**6, device="cuda"))


def _floor(subject: FunctionSubject, k: int) -> float:
    best = [float("inf")] * 2
    for chunk in _CHUNKS:
        J = JacobianOperator(subject.function, subject.point, chunk=chunk)
        V, U = (torch.randn(64, size, device="cuda").T for size in reversed(J.shape))
        for side, work in enumerate((lambda J=J, V=V: J.matmat(V), lambda J=J, U=U: J.rmatmat(U))):
            best[side] = min(best[side], least_seconds(work, 2, "cuda") / 64)
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
    machine, began = described_machine(), time.perf_counter()
    rows = measure(asked.minutes, asked.k)
    if asked.json and rows:
        record = Record(
            part="gpu",
            quick=asked.minutes < 5,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            commit=commit(),
            seconds=time.perf_counter() - began,
            machine=machine,
            settings={"minutes": asked.minutes, "k": asked.k},
            rows=[without_nan(row) for row in rows],
        )
        write_records([record], asked.json)


if __name__ == "__main__":
    main()
