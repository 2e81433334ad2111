"""The child of the peers part: one solver, one problem, one round; or one reference.

python -m benchmarks.one_solve ASKED.json ANSWER.jsonl
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measure.children import peak_bytes, reset_peak, serve
from benchmarks.measure.machine import version_of
from benchmarks.measure.solve_run import attempt, finite, warm_up
from benchmarks.problems.catalogue import problem
from benchmarks.problems.networks import UnavailableError
from benchmarks.problems.references import UncertifiedError, reference
from benchmarks.solvers import PEERS, Target
from jvpsvd.operators import keep_freed_memory


def solved(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the row of one solve, figures of one round in it."""
    keep_freed_memory()
    setting, peer = problem(asked["problem"]), PEERS[asked["solver"]]
    subject = setting.build()
    truth = reference(setting, subject, asked["k"])
    warm_up(peer)
    torch.manual_seed(0)
    target = Target(subject)
    before = reset_peak()
    tried = attempt(peer, target, asked["k"], asked["own_tol"], asked["budget"])
    added = max(0, peak_bytes() - before)
    row: dict[str, Any] = {
        "seconds": tried.seconds,
        "setup_seconds": tried.setup_seconds,
        "forward": tried.forward,
        "reverse": tried.reverse,
        "product_seconds": tried.product_seconds,
        "peak_bytes": added,
        "note": tried.note,
        "said_converged": bool(tried.answers) and all(a.said_converged for a in tried.answers),
        "reference": truth.kind,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "version": version_of(peer.distribution),
    }
    judgement = tried.judged(truth, subject.operator(), asked["tol"])
    row |= {
        "outcome": judgement.outcome,
        "value_error": finite(judgement.value_error),
        "excess": finite(judgement.excess),
        "residual": finite(judgement.residual),
        "orthonormality": finite(judgement.orthonormality),
    }
    return row


def main() -> None:
    asked, reply = serve()
    torch.manual_seed(0)
    try:
        if asked["solver"] is None:
            setting = problem(asked["problem"])
            found = reference(setting, setting.build(), asked["k"])
            reply.write({"reference": found.kind})
        else:
            reply.write(solved(asked))
    except UnavailableError as error:
        reply.write({"unavailable": str(error)})
    except UncertifiedError as error:
        reply.write({"unavailable": f"no reference: {error}"})


if __name__ == "__main__":
    main()
