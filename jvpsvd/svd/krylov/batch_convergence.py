"""The convergence tests of all matrices of a batch that have not finished."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jvpsvd.svd.krylov.convergence import Action, ConvergenceTest, State
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.multiplicity import guaranteed_count
from jvpsvd.svd.krylov.schedule import FAR, Check, convergence_rate, next_check

# The recurrence does not see rounding in the products, so it has to end a little below tol.
_SAFETY = 0.7


@dataclass
class MatrixProgress:
    """One matrix of the batch, its test, and the checks that it has had."""

    index: int
    """Its index in the batch."""
    test: ConvergenceTest
    checks: list[Check] = field(default_factory=list)


class BatchConvergence:
    """What the matrices of a batch, or the one matrix, still have to show.

    Args:
        count: Matrices.
        k: Triplets of each.
        tol: Residual relative to s₁ that is wanted.
        block_size: Copies of one value that the bases can hold.
        probe_steps: Steps that probe columns are given at least.
    """

    def __init__(self, count: int, k: int, tol: float, block_size: int, probe_steps: int) -> None:
        target = _SAFETY * tol
        self.matrices = [MatrixProgress(i, ConvergenceTest(target, target)) for i in range(count)]
        self._k, self._tol, self._target = k, tol, target
        self._block_size, self._probe_steps = block_size, probe_steps

    @property
    def done(self) -> list[int]:
        """Positions of the matrices that have shown all."""
        return [i for i, one in enumerate(self.matrices) if one.test.state is State.DONE]

    @property
    def is_far(self) -> bool:
        """Whether every matrix is far from its target, without probe columns."""
        return all(
            one.test.state is State.SEEK and one.checks[-1].worst > FAR * one.test.target
            for one in self.matrices
        )

    @property
    def has_block_probe(self) -> bool:
        """Whether a block of probe columns was added."""
        return any(one.test.state is State.BLOCK_PROBE for one in self.matrices)

    def start_with_probe(self, step: int) -> None:
        """Note probe columns beside a chosen start, which is no random sample."""
        for one in self.matrices:
            one.test = one.test.with_probe(step, 2 * self._probe_steps)

    def check(self, ritz: Ritz, bases: Factorization) -> list[Action]:
        """Judge every matrix by its Ritz triplets, and return what each asks for."""
        actions = []
        for matrix, s, estimates in self._each(ritz):
            clustered = self.guaranteed(s, estimates, bases) < self._k
            matrix.test, action = matrix.test.check(s, estimates, bases.steps, clustered)
            worst = float(estimates.max() / s[0].clamp_min(1e-300))
            matrix.checks.append(Check(bases.expanded, worst))
            actions.append(action)
        return actions

    def add_probe(self, ritz: Ritz, actions: list[Action], step: int) -> None:
        """Give probe columns, which were added for one matrix or more, their steps."""
        for (matrix, s, _), action in zip(self._each(ritz), actions, strict=True):
            if action is Action.ADD_PROBE_BLOCK:
                matrix.test = matrix.test.with_probe(step, max(self._probe_steps, step), s)
            elif matrix.test.state is State.SEEK:
                matrix.test = matrix.test.with_probe(step, self._probe_steps)

    def next_check(self, actions: list[Action], bases: Factorization) -> int:
        """Return after how many columns in all to check again."""
        step, width = bases.steps, bases.F.shape[-1]
        return min(
            next_check(
                matrix.test,
                action,
                matrix.checks,
                step=step,
                width=width,
                probe_steps=self._probe_steps,
            )
            for matrix, action in zip(self.matrices, actions, strict=True)
        )

    def remove(self, positions: list[int]) -> None:
        """Let these matrices go."""
        self.matrices = [one for i, one in enumerate(self.matrices) if i not in positions]

    def guaranteed(self, s: Tensor, estimates: Tensor, bases: Factorization) -> int:
        """Count the values of one matrix that stand even if copies are missing."""
        return guaranteed_count(s, estimates, self._tol, self._block_size, bases.V.dtype)

    def progress(self, ritz: Ritz) -> tuple[int, float, float | None]:
        """Return converged triplets, the worst residual, and columns to go, if that can be told."""
        converged, worst, slowest = 0, 0.0, 0.0
        for matrix, s, estimates in self._each(ritz):
            top = float(s[0])
            converged += int((estimates <= self._target * top).sum())
            now = float(estimates.max()) / top if top > 0 else 0.0
            worst = max(worst, now)
            rate = convergence_rate(matrix.checks)
            logarithm = math.log(max(now / self._target, 1.0))
            slowest = max(slowest, logarithm / rate) if rate > 0 else math.inf
        return converged, worst, None if math.isinf(slowest) else slowest

    def _each(self, ritz: Ritz) -> list[tuple[MatrixProgress, Tensor, Tensor]]:
        s, estimates = (torch.reshape(part, (-1, self._k)) for part in (ritz.s, ritz.estimates))
        return list(zip(self.matrices, s, estimates, strict=True))
