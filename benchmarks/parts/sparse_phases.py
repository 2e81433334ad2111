"""Where the time of a sparse solve goes, in ARPACK, in `svds`, and in `svds` if it forms U.

The matrices are those of `sparse`.

    python -m benchmarks sparse_phases [--quick] [-k 6] [--rounds 3]

They take turns, each after a rest, since threads of SciPy's BLAS spin on. ARPACK has products and
the rest, `svds` its phases; each line is that of the median solve.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse.linalg import LinearOperator
from scipy.sparse.linalg import svds as scipy_svds

from benchmarks.measure.phases import seconds_by_phase
from benchmarks.measure.timing import REST_SECONDS
from benchmarks.problems.sparse_matrices import MATRICES
from jvpsvd import aslinearoperator, svds
from jvpsvd.svd import ProblemSize, check_request, plan
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.monitor import Monitor

_TOL = 1e-6
_QUICK = 20
"""How many times smaller matrices are with --quick."""

Solved = tuple[float, int, dict[str, float]]
"""Wall seconds, products of both directions, and the seconds of each phase."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks sparse_phases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small matrices, one round")
    parser.add_argument("-k", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    quick, k, rounds = vars(parser.parse_args(arguments)).values()
    for label, build in MATRICES.items():
        matrix = build(_QUICK if quick else 1)
        turns: dict[str, list[Solved]] = {name: [] for name in _SOLVERS}
        for _ in range(1 if quick else rounds):
            for name, solve in _SOLVERS.items():
                time.sleep(REST_SECONDS)
                turns[name].append(solve(matrix, k))
        for solver, solves in turns.items():
            print(
                f"{label:12} {solver:7} {_in_words(sorted(solves)[len(solves) // 2])}", flush=True
            )


def _by_arpack(matrix: sp.csr_array, k: int) -> Solved:
    counted = {"products": 0.0}
    calls = [0]

    def timed(multiply: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def product(v: Any) -> Any:
            began = time.perf_counter()
            image = multiply(v)
            counted["products"] += time.perf_counter() - began
            calls[0] += 1
            return image

        return product

    transposed = matrix.T.tocsr()
    A = LinearOperator(
        matrix.shape,
        matvec=timed(matrix.__matmul__),
        rmatvec=timed(transposed.__matmul__),
        dtype=np.float64,
    )
    began = time.perf_counter()
    scipy_svds(A, k, tol=_TOL, rng=0)
    wall = time.perf_counter() - began
    return wall, calls[0], {**counted, "rest": wall - counted["products"]}


def _by_svds(matrix: sp.csr_array, k: int) -> Solved:
    began = time.perf_counter()
    result = svds(matrix, k, tol=_TOL)
    wall = time.perf_counter() - began
    return wall, sum(result.products), seconds_by_phase(result, wall)


def _with_left(matrix: sp.csr_array, k: int) -> Solved:
    """Solve as `svds` does, without its certificate, by the same solver with U."""
    began = time.perf_counter()
    A = aslinearoperator(matrix)
    A = A.T if A.shape[0] < A.shape[1] else A
    size = ProblemSize.of(A)
    request, monitor = check_request(size, k, tol=_TOL), Monitor()
    solver = plan(size, request).solver
    if isinstance(solver, GolubKahan):
        solver = replace(solver, forms_left=True)
    solver.solve(A, request, monitor)
    wall = time.perf_counter() - began
    rest = wall - sum(monitor.seconds.values())
    return wall, sum(A.products), {**monitor.seconds, "rest": rest}


_SOLVERS = {"ARPACK": _by_arpack, "with U": _with_left, "svds": _by_svds}


def _in_words(solved: Solved) -> str:
    wall, products, phases = solved
    parts = ", ".join(f"{name} {1e3 * seconds:.0f}" for name, seconds in phases.items())
    return f"{1e3 * wall:6.0f} ms, {products:4} products: {parts}"


if __name__ == "__main__":
    main()
