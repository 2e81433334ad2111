"""Who fails safely: every solver on every hostile operator, judged by true errors.

    python -m benchmarks safety [--quick]

A solver's cases run in one process of its own; where that dies or hangs, the case it was in is
"broken" (or "honest", if it was killed at its budget) and the rest goes on in another. An answer is
right if its values and residuals are within twice the residual asked for (`judging.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measure.children import Reply, interpreter, run_child, serve, why_absent
from benchmarks.measure.machine import version_of
from benchmarks.measure.solve_run import attempt, finite
from benchmarks.problems.hostile import CASES, Hostile, K, truth
from benchmarks.problems.problem import OperatorSubject
from benchmarks.problems.references import Reference
from benchmarks.solvers import PEERS, Target

_START_SECONDS = 60.0
QUICK_SOLVERS = ("jvpsvd", "scipy-arpack", "torch-svd")


def measure(
    solvers: Sequence[str], cases: Sequence[str] = tuple(CASES), budget_seconds: float = 30.0
) -> list[dict[str, Any]]:
    """Return a row of each case and solver."""
    rows: list[dict[str, Any]] = []
    for solver in solvers:
        absent = why_absent(PEERS[solver])
        if absent:
            rows += [
                {"case": case, "solver": solver, "outcome": "absent", "note": absent}
                for case in cases
            ]
        else:
            rows += _of_solver(solver, list(cases), budget_seconds)
    for case in cases:
        told = ", ".join(f"{r['solver']} {r['outcome']}" for r in rows if r["case"] == case)
        print(f"{case:16} {told}", flush=True)
    return rows


def _of_solver(solver: str, cases: list[str], budget_seconds: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while cases:
        asked = {"solver": solver, "cases": cases, "budget": budget_seconds}
        limit = _START_SECONDS + 2 * budget_seconds * len(cases)
        ended = run_child(
            "benchmarks.parts.safety", asked, limit=limit, python=interpreter(PEERS[solver])
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


def judged_case(solver: str, name: str, budget_seconds: float) -> dict[str, Any]:
    """Let one solver try one case in this process."""
    case, peer = CASES[name], PEERS[solver]
    hostile: Hostile = case.build()
    target = Target(OperatorSubject(lambda: hostile.seen))
    tried = attempt(peer, target, K, case.tol, budget_seconds)
    judgement = tried.judged(Reference(truth(hostile), "exact"), hostile.honest, case.tol)
    return {
        "case": name,
        "about": case.about,
        "solver": solver,
        "tol": case.tol,
        "outcome": judgement.outcome,
        "value_error": finite(judgement.value_error),
        "residual": finite(judgement.residual),
        "orthonormality": finite(judgement.orthonormality),
        "said_converged": bool(tried.answers) and tried.answers[0].said_converged,
        "products": tried.forward + tried.reverse,
        "note": tried.note,
        "version": version_of(peer.distribution),
    }


def main() -> None:
    asked, reply = serve()
    _answer(asked, reply)


def _answer(asked: dict[str, Any], reply: Reply) -> None:
    for name in asked["cases"]:
        reply.write(judged_case(asked["solver"], name, asked["budget"]))


if __name__ == "__main__":
    main()
