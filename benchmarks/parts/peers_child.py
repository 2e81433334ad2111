"""The child of the peers part: one solver, one problem, one round; or one reference.

python -m benchmarks.parts.peers_child OPTIONS.json ANSWER.jsonl
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measure.children import serve
from benchmarks.measure.memory import peak_bytes, reset_peak
from benchmarks.measure.solve_run import finite_or_none, run_solver, warm_up
from benchmarks.problems.catalogue import find_problem
from benchmarks.problems.networks import UnavailableError
from benchmarks.problems.references import UncertifiedError, find_reference
from benchmarks.solvers import SOLVERS, Target
from benchmarks.solvers.environment import installed_version
from jvpsvd.operators import keep_freed_memory


def solve(options: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one solve, with the figures of this round."""
    keep_freed_memory()
    named, solver = find_problem(options["problem"]), SOLVERS[options["solver"]]
    problem = named.build()
    truth = find_reference(named, problem, options["k"])
    warm_up(solver)
    torch.manual_seed(0)
    target = Target(problem)
    before = reset_peak()
    solve_run = run_solver(solver, target, options["k"], options["own_tol"], options["budget"])
    added = max(0, peak_bytes() - before)
    row: dict[str, Any] = {
        "seconds": solve_run.seconds,
        "setup_seconds": solve_run.setup_seconds,
        "forward": solve_run.forward,
        "reverse": solve_run.reverse,
        "product_seconds": solve_run.product_seconds,
        "peak_bytes": added,
        "note": solve_run.note,
        "said_converged": bool(solve_run.answers)
        and all(a.said_converged for a in solve_run.answers),
        "reference": truth.kind,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "version": installed_version(solver.distribution),
    }
    judgement = solve_run.judge(truth, problem.operator(), options["tol"])
    row |= {
        "outcome": judgement.outcome,
        "value_error": finite_or_none(judgement.value_error),
        "excess": finite_or_none(judgement.excess),
        "residual": finite_or_none(judgement.residual),
        "orthonormality": finite_or_none(judgement.orthonormality),
    }
    return row


def main() -> None:
    options, reply = serve()
    torch.manual_seed(0)
    try:
        if options["solver"] is None:
            named = find_problem(options["problem"])
            found = find_reference(named, named.build(), options["k"])
            reply.write({"reference": found.kind})
        else:
            reply.write(solve(options))
    except UnavailableError as error:
        reply.write({"unavailable": str(error)})
    except UncertifiedError as error:
        reply.write({"unavailable": f"no reference: {error}"})


if __name__ == "__main__":
    main()
