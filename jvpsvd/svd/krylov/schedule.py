"""When to check for convergence again. Each check solves the projected problem."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest, State

# Where the worst residual is above the first number (a guess) times the target, the next check
# comes after at most a sixth more columns, nearer to it after at most a 24th, or after the last
# share (a guess) of the columns that the triplets to go need at their present rate. Convergence
# becomes faster towards the end, and a check may take as long as a step, or several.
_COARSE_ABOVE, _COARSE, _FINE, _MANY_TO_GO = 100.0, 6, 24, 0.4
# The next check comes after this share of the columns that the rates of convergence predict, rather
# too early than too late. Of many triplets about as many converge per column until few are left,
# which predicts the end from afar; the worst residual falls slowly there, and then all at once.
_EARLY = 0.8


@dataclass(frozen=True)
class Check:
    """The result of one convergence check."""

    columns: int
    """Number of columns by which the bases had been expanded."""
    worst: float
    """Largest predicted residual, relative to s₁."""
    unconverged: int = 0
    """Number of triplets above the target."""


def next_check(
    test: ConvergenceTest,
    action: Action,
    checks: list[Check],
    *,
    step: int,
    width: int,
    probe_steps: int,
) -> int:
    """Return the number of columns at which to check one matrix again.

    Args:
        test: Convergence test of this matrix.
        action: Action that the last check returned.
        checks: All checks so far, the present one last.
        step: The present step.
        width: Columns of the next block.
        probe_steps: Least number of steps after probe columns were added.
    """
    now = checks[-1]
    if test.state is State.BLOCK_PROBE or (
        test.state is State.PROBE and action is not Action.EXPAND
    ):
        # After probe columns the number of steps doubles between checks, up to the last step
        # needed.
        had = max(probe_steps, step - test.probe_start)
        return now.columns + max(1, min(test.probe_end - step, had)) * width
    coarse, fine = now.columns // _COARSE, now.columns // _FINE
    columns = coarse if now.worst > _COARSE_ABOVE * test.target else fine
    if now.worst <= test.target:  # copies of a value may lag, and nothing predicts their end
        return now.columns + max(width, columns)
    per_column = _measure_rate(checks)
    if per_column > 0:
        to_go = now.unconverged / per_column
        columns = max(columns, min(coarse, int(_MANY_TO_GO * to_go)))
        columns = min(columns, math.ceil(_EARLY * to_go))
    rate = convergence_rate(checks)
    if rate > 0:
        logarithm = math.log(max(now.worst / test.target, 1.0))
        columns = min(columns, math.ceil(_EARLY * logarithm / rate))
    return now.columns + max(width, columns)


def _measure_rate(checks: list[Check]) -> float:
    """Return how many triplets converged per column, between the last two checks."""
    if len(checks) < 2:
        return 0.0
    before, now = checks[-2:]
    converged = before.unconverged - now.unconverged
    return converged / (now.columns - before.columns) if now.columns > before.columns else 0.0


def convergence_rate(checks: list[Check]) -> float:
    """Return the fall of the worst residual's logarithm per column, between the last two checks.

    >>> round(convergence_rate([Check(10, 1e-1), Check(20, 1e-3)]), 2)
    0.46
    """
    if len(checks) < 2:
        return 0.0
    before, now = checks[-2:]
    if not (0 < now.worst < before.worst and now.columns > before.columns):
        return 0.0
    return math.log(before.worst / now.worst) / (now.columns - before.columns)
