"""When the triplets of one matrix may be believed: small residuals, and probe columns.

A Krylov space holds no more copies of a repeated value than its block is wide, and nothing of an
invariant subspace that its start did not touch. So probe columns, random and orthogonal to
everything, are added before the end. If something is missing, they raise it among the leading
values, with a residual that says it has not converged.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

# Probe columns are added when the worst residual is this many times the target.
_NEAR = 10.0
# Residuals, relative to s₁, down to which the values of a cluster are first sharpened: that tells
# them apart for less than the steps that a block of probe columns needs.
_SHARPENED = 1e-5


class State(Enum):
    """How far the solve of one matrix is."""

    SEEK = "residuals are too large"
    PROBE = "a few probe columns were added"
    BLOCK_PROBE = "a block of probe columns was added"
    DONE = "converged, and probe columns raised no value"


class Action(Enum):
    """What a convergence check asks for."""

    EXPAND = "residuals are too large"
    ADD_PROBE_COLUMNS = "a few probe columns"
    ADD_PROBE_BLOCK = "a block of probe columns"
    WAIT = "probe columns need more steps"
    FINISH = "nothing"


@dataclass(frozen=True)
class ConvergenceTest:
    """What the triplets of one matrix still have to show.

    Args:
        tolerance: Residual relative to s₁ that counts as converged.
        target: Residual relative to s₁ to reach; below the tolerance where values are clustered.
        state: What has been done so far.
        probe_start: Step at which probe columns were added.
        probe_end: Step up to which they are to be expanded.
        values_before_probe: (k,) values before a block of them was added.
    """

    tolerance: float
    target: float
    state: State = State.SEEK
    probe_start: int = 0
    probe_end: int = 0
    values_before_probe: Tensor | None = None

    def with_probe(self, step: int, more: int, values: Tensor | None = None) -> ConvergenceTest:
        """Return the test after probe columns were added, to be expanded for `more` steps.

        Args:
            step: The present step.
            more: Steps.
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
        self, s: Tensor, estimates: Tensor, step: int, clustered: bool
    ) -> tuple[ConvergenceTest, Action]:
        """Judge values (k,) and predicted residuals (k,) after so many steps.

        A block of b random columns meets at most b copies of a repeated value. So where b values
        are not told apart and others follow (`clustered`), b probe columns are added and given as
        many steps as the start block had; elsewhere few columns and steps will do.

        >>> import torch
        >>> test, s = ConvergenceTest(1e-6, 1e-6), torch.tensor([2.0, 1.0])
        >>> test.check(s, torch.tensor([0.0, 1e-3]), 10, clustered=False)[1]
        <Action.EXPAND: 'residuals are too large'>
        >>> test.check(s, torch.tensor([0.0, 1e-6]), 10, clustered=False)[1]
        <Action.ADD_PROBE_COLUMNS: 'a few probe columns'>
        """
        top, worst = float(s[0]), float(estimates.max())
        if self.values_before_probe is not None:
            allowed = self.tolerance * top
            if worst > allowed or bool((s - self.values_before_probe > allowed).any()):
                return ConvergenceTest(self.tolerance, self.target), Action.EXPAND
            return self._waited(step)
        if worst > self.target * top:
            near = worst <= _NEAR * self.target * top and self.state is State.SEEK
            return self, Action.ADD_PROBE_COLUMNS if near else Action.EXPAND
        if clustered:
            if self.target > _SHARPENED:
                return replace(self, target=self.target / 10), Action.EXPAND
            return self, Action.ADD_PROBE_BLOCK
        if self.state is State.SEEK:
            return self, Action.ADD_PROBE_COLUMNS
        return self._waited(step)

    def _waited(self, step: int) -> tuple[ConvergenceTest, Action]:
        if step < self.probe_end:
            return self, Action.WAIT
        return replace(self, state=State.DONE), Action.FINISH
