"""How far our wall time stands above that of 2k products: the part "floors".

The floor is the time of k batched JVPs and k batched VJPs at the best chunk, all of them taken:
what k triplets would cost if their vectors were known. Beside it stand the peaks of the machine
(`peaks.py`) and the time that one full orthogonalisation of the basis takes at the GEMM peak; the
wall is stacked by parts (`stacked.py`). Solve and floor take turns in one process, round by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.clocks import watched
from benchmarks.measure.peaks import copy_gbs, gemm_gflops, least_seconds
from benchmarks.problems.catalogue import Problem, problem
from benchmarks.problems.networks import UnavailableError
from benchmarks.problems.problem import FunctionSubject, Subject
from benchmarks.solvers.metering import Meter, MeteredOperator
from jvpsvd import JacobianOperator, LinearOperator, svds
from jvpsvd.operators import keep_freed_memory

NAMES = (
    "lite0/output",
    "lite0/_blocks.15",
    "lite0/_blocks.9",
    "lite0/_blocks.2",
    "alexnet-trained/pool5",
    "minilm/sentence",
    "1/i/n=1e6",
)
QUICK_NAMES = ("perceptron", "repeated/n=1e3")
CHUNKS = (4, 8, 16, 32)
_VECTORS = 32


def measure(names: tuple[str, ...], k: int, rounds: int, *, small: bool) -> list[dict[str, Any]]:
    """Return a row of each problem."""
    keep_freed_memory()
    peaks = {
        "gemm_gflops": gemm_gflops(512 if small else 2048),
        "copy_gbs": copy_gbs(16 if small else 256),
    }
    print("peaks: {gemm_gflops:.0f} GFLOP/s, {copy_gbs:.1f} GB/s".format(**peaks))
    rows = []
    for name in names:
        setting = problem(name)
        try:
            subject = setting.build()
        except UnavailableError as error:
            print(f"{name}: skipped, {error}")
            continue
        rows.append({**of_problem(setting, subject, k, rounds), **peaks})
        rows[-1]["dense_floor"] = rows[-1].pop("dense_flop") / (1e9 * peaks["gemm_gflops"])
        _say(rows[-1])
    return rows


def of_problem(setting: Problem, subject: Subject, k: int, rounds: int) -> dict[str, Any]:
    """Return the row of one problem: the round of median wall time, and the median floor."""
    k = min(k, min(setting.shape))
    J = warm(subject.operator())
    solves, jvps, vjps = [], [], []
    ahead, back = fastest(subject)
    m, n = setting.shape
    for _ in range(rounds):
        missing: list[str] = []
        with watched(missing) as clocks:
            began = time.perf_counter()
            operator = MeteredOperator(J, Meter())
            result = svds(operator, k, tol=setting.tol, on_unconverged="ignore")
            wall = time.perf_counter() - began
        solves.append((wall, clocks.stacked(wall), result, missing))
        jvps.append(seconds_of(k, n, J.dtype, ahead.matmat))
        vjps.append(seconds_of(k, m, J.dtype, back.rmatmat))
    solves.sort(key=lambda solve: solve[0])
    wall, parts, result, missing = solves[len(solves) // 2]
    jvp, vjp = statistics.median(jvps), statistics.median(vjps)
    columns, short = result.products.forward, min(setting.shape)
    return {
        "problem": setting.name,
        "shape": list(setting.shape),
        "k": k,
        "tol": setting.tol,
        "method": result.method,
        "block": result.plan.block_size,
        "wall": wall,
        "wall_range": [solves[0][0], solves[-1][0]],
        "floor": jvp + vjp,
        "jvp_ms": 1e3 * jvp / k,
        "vjp_ms": 1e3 * vjp / k,
        "parts": parts,
        "missing": missing,
        "products": list(result.products),
        "converged": int(result.converged.sum()),
        # one pass of V'W and W − V V'W against all columns before, 2 flop each
        "dense_flop": 2.0 * short * columns**2,
    }


def fastest(subject: Subject) -> tuple[LinearOperator, LinearOperator]:
    """Return the operators of the chunks at which forward and reverse products take least."""
    if not isinstance(subject, FunctionSubject):
        J = warm(subject.operator())
        return J, J
    found = [warm(JacobianOperator(subject.function, subject.point, chunk=c)) for c in CHUNKS]
    V, U = (torch.randn(_VECTORS, size, dtype=subject.dtype).T for size in reversed(subject.shape))
    ahead = [least_seconds(lambda J=J: J.matmat(V), 2) for J in found]
    back = [least_seconds(lambda J=J: J.rmatmat(U), 2) for J in found]
    return found[ahead.index(min(ahead))], found[back.index(min(back))]


def seconds_of(
    k: int, size: int, dtype: torch.dtype, multiply: Callable[[Tensor], Tensor]
) -> float:
    """Return the seconds of k products in blocks, noise of the machine included like a solve's."""
    block = torch.randn(_VECTORS, size, dtype=dtype)
    began = time.perf_counter()
    for start in range(0, k, _VECTORS):
        multiply(block[: k - start].T)
    return time.perf_counter() - began


def warm(J: LinearOperator) -> LinearOperator:
    """Return the operator, its recording made and its first products taken."""
    J.matvec(torch.zeros(J.shape[1], dtype=J.dtype))
    J.rmatvec(torch.zeros(J.shape[0], dtype=J.dtype))
    return J


def _say(row: dict[str, Any]) -> None:
    shares = ", ".join(f"{name} {s / row['wall']:.0%}" for name, s in row["parts"].items())
    print(
        f"{row['problem']:24} {row['method']:12} {row['wall']:.2f} s, floor {row['floor']:.2f} s: "
        f"{row['wall'] / row['floor']:.2f} x; {shares}",
        flush=True,
    )
