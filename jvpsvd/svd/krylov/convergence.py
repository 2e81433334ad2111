"""The convergence test of one matrix: small residuals, and probe columns.

A Krylov space with blocks of b columns finds a repeated value at most b times, and it finds nothing
of an invariant subspace that is orthogonal to its starting block. So probe columns, random and
orthogonal to the bases, are added before the end. If a leading value is missing, they bring it up,
and its residual shows that it has not converged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

# Probe columns are added once the worst residual is at most this many times the target.
_NEAR = 10.0
# The values of a cluster are first computed to this residual, relative to s₁. That separates most
# clusters, and needs fewer steps than a block of probe columns.
_SHARPENED = 1e-5


class State(Enum):
    """The state of the solve of one matrix."""

    SEEK = "residuals are too large"
    PROBE = "a few probe columns were added"
    BLOCK_PROBE = "a block of probe columns was added"
    DONE = "converged, and probe columns raised no value"


class Action(Enum):
    """What the solver does after a convergence check."""

    EXPAND = "residuals are too large, or copies of a value may lag behind"
    ADD_PROBE_COLUMNS = "a few probe columns"
    ADD_PROBE_BLOCK = "a block of probe columns"
    WAIT = "probe columns need more steps"
    FINISH = "nothing"


@dataclass(frozen=True)
class ConvergenceTest:
    """The convergence test of one matrix, in its present state.

    Args:
        tolerance: Largest residual, relative to s₁, that counts as converged.
        target: Residual to reach, relative to s₁; below the tolerance where values are clustered.
        state: State of the solve.
        probe_start: Step at which probe columns were added.
        probe_end: Step up to which they are expanded.
        values_before_probe: (k,) values before a block of probe columns was added.
    """

    tolerance: float
    target: float
    state: State = State.SEEK
    probe_start: int = 0
    probe_end: int = 0
    values_before_probe: Tensor | None = None

    def with_probe(self, step: int, more: int, values: Tensor | None = None) -> ConvergenceTest:
        """Return the test after probe columns were added, which waits for `more` steps.

        Args:
            step: The present step.
            more: Number of steps to wait.
            values: The present values, for a block of probe columns.
        """
        state = State.PROBE if values is None else State.BLOCK_PROBE
        return replace(
            self,
            state=state,
            probe_start=step,
            probe_end=step + more,
            values_before_probe=values,
        )

    def check(
        self, s: Tensor, estimates: Tensor, step: int, clustered: bool, lags: bool
    ) -> tuple[ConvergenceTest, Action]:
        """Check values (k,) and predicted residuals (k,) after `step` steps.

        Blocks of b columns find a repeated value at most b times. So if b values cannot be
        separated and others follow (`clustered`), a block of b probe columns is added, and the test
        waits for as many steps as the starting block had. Otherwise a few columns and steps
        suffice. While copies of a value may lag behind others (`lags`), the solve goes on.

        >>> import torch
        >>> test, s = ConvergenceTest(1e-6, 1e-6), torch.tensor([2.0, 1.0])
        >>> test.check(s, torch.tensor([0.0, 1e-3]), 10, clustered=False, lags=False)[1]
        <Action.EXPAND: 'residuals are too large, or copies of a value may lag behind'>
        >>> test.check(s, torch.tensor([0.0, 1e-6]), 10, clustered=False, lags=False)[1]
        <Action.ADD_PROBE_COLUMNS: 'a few probe columns'>
        """
        top, worst = float(s[0]), float(estimates.max())
        if self.values_before_probe is not None:
            allowed = self.tolerance * top
            if worst > allowed or bool((s - self.values_before_probe > allowed).any()):
                return ConvergenceTest(self.tolerance, self.target), Action.EXPAND
            return self._finish_or_wait(step)
        if worst > self.target * top:
            near = worst <= _NEAR * self.target * top and self.state is State.SEEK
            return self, Action.ADD_PROBE_COLUMNS if near else Action.EXPAND
        if clustered:
            if self.target > _SHARPENED:
                return replace(self, target=self.target / 10), Action.EXPAND
            return self, Action.ADD_PROBE_BLOCK
        if self.state is State.SEEK:
            return self, Action.ADD_PROBE_COLUMNS
        if lags:
            return self, Action.EXPAND
        return self._finish_or_wait(step)

    def _finish_or_wait(self, step: int) -> tuple[ConvergenceTest, Action]:
        if step < self.probe_end:
            return self, Action.WAIT
        return replace(self, state=State.DONE), Action.FINISH
