"""When to check for convergence again: each check solves the projected problem."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest, State

# Far from the target, checks may be a sixth of the columns apart, near it a 24th: convergence gets
# faster towards the end, and a check may take as long as a step.
FAR, _COARSE, _FINE = 30.0, 6, 24
# Of the columns that the rate of convergence predicts: a check comes rather too early.
_EARLY = 0.8


@dataclass(frozen=True)
class Check:
    """What one convergence check found."""

    columns: int
    """Columns that the bases were expanded by."""
    worst: float
    """Largest predicted residual, relative to s₁."""


def next_check(
    test: ConvergenceTest,
    action: Action,
    checks: list[Check],
    *,
    step: int,
    width: int,
    probe_steps: int,
) -> int:
    """Return after how many columns in all to check one matrix again.

    Args:
        test: Of this matrix.
        action: That the last check asked for.
        checks: So far; the last one is of now.
        step: The present step.
        width: Columns of the next block.
        probe_steps: Steps that probe columns are given at least.
    """
    now = checks[-1]
    if test.state is State.BLOCK_PROBE or (
        test.state is State.PROBE and action is not Action.EXPAND
    ):
        # Twice as many steps as probe columns have had, and not beyond those they need.
        had = max(probe_steps, step - test.probe_start)
        return now.columns + max(1, min(test.probe_end - step, had)) * width
    columns = now.columns // (_COARSE if now.worst > FAR * test.target else _FINE)
    rate = convergence_rate(checks)
    if rate > 0:
        logarithm = math.log(max(now.worst / test.target, 1.0))
        columns = min(columns, math.ceil(_EARLY * logarithm / rate))
    return now.columns + max(width, columns)


def convergence_rate(checks: list[Check]) -> float:
    """Return how fast the worst residual fell between two checks: its logarithm per column.

    >>> round(convergence_rate([Check(10, 1e-1), Check(20, 1e-3)]), 2)
    0.46
    """
    if len(checks) < 2:
        return 0.0
    before, now = checks[-2:]
    if not (0 < now.worst < before.worst and now.columns > before.columns):
        return 0.0
    return math.log(before.worst / now.worst) / (now.columns - before.columns)
