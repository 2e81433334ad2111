"""The convergence tests of the unfinished matrices of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest, State
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.multiplicity import count_without_lag, guaranteed_count
from jvpsvd.svd.krylov.schedule import Check, convergence_rate, next_check

# Residuals predicted by the recurrence do not contain rounding of the products, so their target
# lies a little below tol.
_SAFETY = 0.7
# Bases turn compact only while the worst residual is above this many times the target: a guess.
_FAR = 30.0
# From so many columns on, a projected problem takes longer than a few steps of one matrix: the
# matrices of a batch are then checked each at its own time. A guess.
_COLUMNS_WORTH_WAITING = 256
# On a GPU, whose products and dense work are fast and whose decompositions are not, at least so
# many steps lie between two checks of a matrix: a guess.
_STEPS_ON_GPU = 3


@dataclass
class MatrixProgress:
    """One matrix of the batch, with its convergence test and its previous checks."""

    index: int
    """Its index in the batch."""
    test: ConvergenceTest
    checks: list[Check] = field(default_factory=list)
    next_check: int = 0
    """Number of columns at which it is to be checked again."""
    is_due: bool = True
    """Whether it is checked now."""
    converged: int = 0
    """Triplets that met the target at its last check."""
    worst: float = 0.0
    """Worst residual at its last check, relative to s₁."""


class BatchConvergence:
    """The convergence tests of a batch, or of a single matrix.

    Args:
        count: Number of matrices.
        k: Number of triplets of each.
        tol: Tolerance: the largest residual, relative to s₁.
        block_size: How often the bases can hold a repeated value.
        probe_steps: Least number of steps after probe columns were added.
    """

    def __init__(self, count: int, k: int, tol: float, block_size: int, probe_steps: int) -> None:
        target = _SAFETY * tol
        self.matrices = [MatrixProgress(i, ConvergenceTest(target, target)) for i in range(count)]
        self._k, self._tol, self._target = k, tol, target
        self._block_size, self._probe_steps = block_size, probe_steps
        self.has_block_probe = False
        """Whether a block of probe columns was added, which stays in all later blocks."""
        self._searched_values: Tensor | None = None

    @property
    def done(self) -> list[int]:
        """Positions of the matrices whose test has finished."""
        return [i for i, one in enumerate(self.matrices) if one.test.state is State.DONE]

    @property
    def due(self) -> list[int] | None:
        """Positions of the matrices that are checked now; None: all."""
        found = [i for i, one in enumerate(self.matrices) if one.is_due]
        return None if len(found) == len(self.matrices) else found

    def mark_due(self, bases: Factorization, *, everyone: bool) -> None:
        """Find the matrices that are checked now: all, or those whose time has come."""
        everyone = everyone or bases.size < _COLUMNS_WORTH_WAITING
        for one in self.matrices:
            one.is_due = everyone or one.next_check <= bases.expanded

    @property
    def is_far(self) -> bool:
        """Whether every matrix is far from its target and has no probe columns yet."""
        return all(
            one.test.state is State.SEEK and one.checks[-1].worst > _FAR * one.test.target
            for one in self.matrices
        )

    def start_with_probe(self, step: int) -> None:
        """Note probe columns beside a chosen start, which is no random sample."""
        for one in self.matrices:
            one.test = one.test.with_probe(step, 2 * self._probe_steps)

    def check(self, ritz: Ritz, bases: Factorization) -> list[Action]:
        """Check every matrix that is due, and return the action for each; others go on."""
        actions = []
        for matrix, s, estimates in self._each(ritz):
            if not matrix.is_due:
                actions.append(Action.EXPAND)
                continue
            clustered = self.guaranteed(s, estimates, bases) < self._k
            clustered = clustered and not self.copies_are_excluded(s)
            lags = self._without_lag(s, estimates, bases) < self._k
            matrix.test, action = matrix.test.check(s, estimates, bases.steps, clustered, lags)
            worst = float(estimates.max() / s[0].clamp_min(1e-300))
            unconverged = int((estimates > matrix.test.target * s[0]).sum())
            matrix.checks.append(Check(bases.expanded, worst, unconverged))
            actions.append(action)
        return actions

    def add_probe(self, ritz: Ritz, actions: list[Action], step: int) -> None:
        """Note that probe columns were added, and set the steps to wait for them."""
        for (matrix, s, _), action in zip(self._each(ritz), actions, strict=True):
            if action is Action.ADD_PROBE_BLOCK:
                self.has_block_probe = True
                matrix.test = matrix.test.with_probe(step, max(self._probe_steps, step), s)
            elif matrix.test.state is State.SEEK:
                matrix.test = matrix.test.with_probe(step, self._probe_steps)

    def exclude_copies(self, s: Tensor) -> None:
        """Note that no copy of these values of a single matrix is missing, which was just checked.

        The check is to be made again.
        """
        self._searched_values = s
        self.matrices[0].checks.pop()

    def copies_are_excluded(self, s: Tensor) -> bool:
        """Tell whether `exclude_copies` was called, and none has risen by a tolerance since."""
        before = self._searched_values
        return before is not None and bool((s - before <= self._tol * s[0]).all())

    def may_find_more(self, ritz: Ritz, actions: list[Action], bases: Factorization) -> bool:
        """Tell whether the next block, as wide as it is, could hold more copies than were found.

        If a repeated value fills it, the probe columns in it are taken up by copies. That is asked
        of the matrices that need a block of probe columns.
        """
        width = bases.F.shape[-1]
        return all(
            self._guaranteed(s, estimates, bases, width) == self._k
            for (_, s, estimates), action in zip(self._each(ritz), actions, strict=True)
            if action is Action.ADD_PROBE_BLOCK
        )

    def next_check(self, actions: list[Action], bases: Factorization) -> int:
        """Return the number of columns at which to check again."""
        step, width = bases.steps, bases.F.shape[-1]
        on_gpu = bases.V.is_cuda and bases.size >= _COLUMNS_WORTH_WAITING
        soonest = bases.expanded + (_STEPS_ON_GPU * width if on_gpu else 0)
        for matrix, action in zip(self.matrices, actions, strict=True):
            if matrix.is_due:
                columns = next_check(
                    matrix.test,
                    action,
                    matrix.checks,
                    step=step,
                    width=width,
                    probe_steps=self._probe_steps,
                )
                matrix.next_check = max(soonest, columns)
        return min(matrix.next_check for matrix in self.matrices)

    def remove(self, positions: list[int]) -> None:
        """Remove these matrices, which have finished."""
        self.matrices = [one for i, one in enumerate(self.matrices) if i not in positions]

    def guaranteed(self, s: Tensor, estimates: Tensor, bases: Factorization) -> int:
        """Count the leading values of one matrix that no missing value can displace."""
        return self._guaranteed(s, estimates, bases, self._block_size)

    def guaranteed_so_far(self, s: Tensor, estimates: Tensor, bases: Factorization) -> int:
        """Count the same of a matrix whose test is not passed: there, copies may lag as well."""
        return min(self.guaranteed(s, estimates, bases), self._without_lag(s, estimates, bases))

    def progress(self, ritz: Ritz) -> tuple[int, float, float | None]:
        """Return converged triplets, worst residual, and columns to go (None if unknown)."""
        converged, worst, slowest = 0, 0.0, 0.0
        for matrix, s, estimates in self._each(ritz):
            if matrix.is_due:
                top = float(s[0])
                matrix.converged = int((estimates <= self._target * top).sum())
                matrix.worst = float(estimates.max()) / top if top > 0 else 0.0
            converged += matrix.converged
            worst = max(worst, matrix.worst)
            rate = convergence_rate(matrix.checks)
            logarithm = math.log(max(matrix.worst / self._target, 1.0))
            slowest = max(slowest, logarithm / rate) if rate > 0 else math.inf
        return converged, worst, None if math.isinf(slowest) else slowest

    def _without_lag(self, s: Tensor, estimates: Tensor, bases: Factorization) -> int:
        return count_without_lag(s, estimates, self._tol, self._block_size, bases.V.dtype)

    def _guaranteed(self, s: Tensor, estimates: Tensor, bases: Factorization, copies: int) -> int:
        return guaranteed_count(s, estimates, self._tol, copies, bases.V.dtype)

    def _each(self, ritz: Ritz) -> list[tuple[MatrixProgress, Tensor, Tensor]]:
        s, estimates = (torch.reshape(part, (-1, self._k)) for part in (ritz.s, ritz.estimates))
        return list(zip(self.matrices, s, estimates, strict=True))
