"""How far our wall time stands above that of 2k products: the part "floors".

The floor is the measured time of k batched JVPs and k batched VJPs at the best chunk: what k
triplets would cost if their vectors were known. Beside it stand the peaks of the machine
(`measure/peaks.py`) and the time that one full orthogonalisation of the basis takes at the GEMM
peak. The wall time is divided into the phases that a result tells. Solve and floor take turns in
one process, round by round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.peaks import copy_gbs, gemm_gflops
from benchmarks.measure.phases import seconds_by_phase
from benchmarks.measure.timing import time_least
from benchmarks.problems.catalogue import NamedProblem, find_problem
from benchmarks.problems.networks import UnavailableError
from benchmarks.problems.problem import JacobianProblem, Problem
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
# No further round of a problem begins after so many seconds: 1/i takes minutes for each.
_ENOUGH = 120.0


def measure(names: tuple[str, ...], k: int, rounds: int, *, small: bool) -> list[dict[str, Any]]:
    """Return a row for each problem."""
    keep_freed_memory()
    peaks = {
        "gemm_gflops": gemm_gflops(512 if small else 2048),
        "copy_gbs": copy_gbs(16 if small else 256),
    }
    print("peaks: {gemm_gflops:.0f} GFLOP/s, {copy_gbs:.1f} GB/s".format(**peaks))
    rows = []
    for name in names:
        named = find_problem(name)
        try:
            problem = named.build()
        except UnavailableError as error:
            print(f"{name}: skipped, {error}")
            continue
        rows.append({**measure_problem(named, problem, k, rounds), **peaks})
        rows[-1]["dense_floor"] = rows[-1].pop("dense_flop") / (1e9 * peaks["gemm_gflops"])
        _print_row(rows[-1])
    return rows


def measure_problem(named: NamedProblem, problem: Problem, k: int, rounds: int) -> dict[str, Any]:
    """Return the row of one problem: the round with the median wall time, and the median floor."""
    k = min(k, min(named.shape))
    J = warm_up(problem.operator())
    solves, jvps, vjps = [], [], []
    forward, reverse = find_fastest(problem)
    m, n = named.shape
    first = time.perf_counter()
    while len(solves) < rounds and (not solves or time.perf_counter() - first < _ENOUGH):
        began = time.perf_counter()
        operator = MeteredOperator(J, Meter())
        result = svds(operator, k, tol=named.tol, on_unconverged="ignore")
        solves.append((time.perf_counter() - began, result))
        jvps.append(time_products(k, n, J.dtype, forward.matmat))
        vjps.append(time_products(k, m, J.dtype, reverse.rmatmat))
    solves.sort(key=lambda solve: solve[0])
    wall, result = solves[len(solves) // 2]
    jvp, vjp = statistics.median(jvps), statistics.median(vjps)
    columns, short = result.products.forward, min(named.shape)
    return {
        "problem": named.name,
        "shape": list(named.shape),
        "k": k,
        "tol": named.tol,
        "method": result.method,
        "block": result.plan.block_size,
        "wall": wall,
        "wall_range": [solves[0][0], solves[-1][0]],
        "rounds": len(solves),
        "floor": jvp + vjp,
        "jvp_ms": 1e3 * jvp / k,
        "vjp_ms": 1e3 * vjp / k,
        "parts": seconds_by_phase(result, wall),
        "products": list(result.products),
        "converged": int(result.converged.sum()),
        # one pass of V'W and W − V V'W against all earlier columns, 2 flop each
        "dense_flop": 2.0 * short * columns**2,
    }


def find_fastest(problem: Problem) -> tuple[LinearOperator, LinearOperator]:
    """Return the operators whose chunks make forward and reverse products fastest."""
    if not isinstance(problem, JacobianProblem):
        J = warm_up(problem.operator())
        return J, J
    found = [warm_up(JacobianOperator(problem.function, problem.point, chunk=c)) for c in CHUNKS]
    V, U = (torch.randn(_VECTORS, size, dtype=problem.dtype).T for size in reversed(problem.shape))
    forward = [time_least(lambda J=J: J.matmat(V), 2) for J in found]
    reverse = [time_least(lambda J=J: J.rmatmat(U), 2) for J in found]
    return found[forward.index(min(forward))], found[reverse.index(min(reverse))]


def time_products(
    k: int, size: int, dtype: torch.dtype, multiply: Callable[[Tensor], Tensor]
) -> float:
    """Return the seconds of k products in blocks; they have the machine's noise, as a solve has."""
    block = torch.randn(_VECTORS, size, dtype=dtype)
    began = time.perf_counter()
    for start in range(0, k, _VECTORS):
        multiply(block[: k - start].T)
    return time.perf_counter() - began


def warm_up(J: LinearOperator) -> LinearOperator:
    """Record the operator and take its first products, and return it."""
    J.matvec(torch.zeros(J.shape[1], dtype=J.dtype))
    J.rmatvec(torch.zeros(J.shape[0], dtype=J.dtype))
    return J


def _print_row(row: dict[str, Any]) -> None:
    shares = ", ".join(f"{name} {s / row['wall']:.0%}" for name, s in row["parts"].items())
    print(
        f"{row['problem']:24} {row['method']:12} {row['wall']:.2f} s, floor {row['floor']:.2f} s: "
        f"{row['wall'] / row['floor']:.2f} x; {shares}",
        flush=True,
    )
