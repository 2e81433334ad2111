"""Who fails safely: every solver on every hostile operator, judged by true errors.

    python -m benchmarks safety [--quick]

All cases of a solver run in one process. If it dies or hangs, the case at hand is "broken" (or
"honest", if it was killed at its budget), and another process goes on with the rest. An answer is
right if its values and residuals are within twice the required residual (`measure/judging.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure.children import run_child, serve
from benchmarks.measure.solve_run import finite_or_none, run_solver
from benchmarks.problems.hostile import CASES, Hostile, K, truth
from benchmarks.problems.problem import OperatorProblem
from benchmarks.problems.references import Reference
from benchmarks.solvers import SOLVERS, Target
from benchmarks.solvers.environment import find_interpreter, installed_version, why_absent

_START_SECONDS = 60.0
QUICK_SOLVERS = ("jvpsvd", "scipy-arpack", "torch-svd")


def measure(
    solvers: Sequence[str], cases: Sequence[str] = tuple(CASES), budget_seconds: float = 30.0
) -> list[dict[str, Any]]:
    """Return a row for each case and solver."""
    rows: list[dict[str, Any]] = []
    for solver in solvers:
        absent = why_absent(SOLVERS[solver])
        if absent:
            rows += [
                {"case": case, "solver": solver, "outcome": "absent", "note": absent}
                for case in cases
            ]
        else:
            rows += _run_solver(solver, list(cases), budget_seconds)
    for case in cases:
        outcomes = ", ".join(f"{r['solver']} {r['outcome']}" for r in rows if r["case"] == case)
        print(f"{case:16} {outcomes}", flush=True)
    return rows


def _run_solver(solver: str, cases: list[str], budget_seconds: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while cases:
        options = {"solver": solver, "cases": cases, "budget": budget_seconds}
        limit = _START_SECONDS + 2 * budget_seconds * len(cases)
        ended = run_child(
            "benchmarks.parts.safety",
            options,
            limit=limit,
            python=find_interpreter(SOLVERS[solver]),
        )
        done = [row for row in ended.rows if "outcome" in row]
        rows += done
        cases = cases[len(done) :]
        if cases:
            note = ended.failure or "no answer"
            outcome = "honest" if note.startswith("killed") else "broken"
            rows.append({"case": cases[0], "solver": solver, "outcome": outcome, "note": note})
            cases = cases[1:]
    return rows


def judge_case(solver: str, name: str, budget_seconds: float) -> dict[str, Any]:
    """Let one solver try one case in this process."""
    case, chosen = CASES[name], SOLVERS[solver]
    hostile: Hostile = case.build()
    target = Target(OperatorProblem(lambda: hostile.seen))
    solve_run = run_solver(chosen, target, K, case.tol, budget_seconds)
    judgement = solve_run.judge(Reference(truth(hostile), "exact"), hostile.honest, case.tol)
    return {
        "case": name,
        "about": case.about,
        "solver": solver,
        "tol": case.tol,
        "outcome": judgement.outcome,
        "value_error": finite_or_none(judgement.value_error),
        "residual": finite_or_none(judgement.residual),
        "orthonormality": finite_or_none(judgement.orthonormality),
        "said_converged": bool(solve_run.answers) and solve_run.answers[0].said_converged,
        "products": solve_run.forward + solve_run.reverse,
        "note": solve_run.note,
        "version": installed_version(chosen.distribution),
    }


def main() -> None:
    options, reply = serve()
    for name in options["cases"]:
        reply.write(judge_case(options["solver"], name, options["budget"]))


if __name__ == "__main__":
    main()
