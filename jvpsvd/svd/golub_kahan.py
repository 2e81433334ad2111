"""Leading singular triplets by block Golub–Kahan with full reorthogonalisation.

The solver expands a `Factorization` until the recurrence says that the k leading triplets are
accurate, lets random columns show whether something is missing, and then measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.factorization import Factorization, Ritz, estimated_frobenius
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Triplets, column_lengths

# The recurrence does not see rounding in the products, so it has to end a little below the goal.
_SAFETY = 0.7
# Copies of one value differ by rounding: in units of eps · s₁.
_ROUNDING = 10.0
# Residuals, relative to s₁, down to which crowded values are first sharpened.
_TELLING = 1e-5


@dataclass(frozen=True)
class GolubKahan:
    """Hyper-parameters of the solver.

    Args:
        block_size: Vectors per step: small blocks need fewer products, wide ones cost less each.
        max_size: Columns of the bases at which it restarts; None: the shorter side, where the
            factorisation is exact.
        max_restarts: Restarts after which it gives up.
        probe_width: Random columns added after convergence, to meet what the start block missed.
        probe_steps: Expansions that these columns are given.
        seed: Of the starting block, refill and probe.
    """

    block_size: int = 16
    max_size: int | None = None
    max_restarts: int = 100
    probe_width: int = 4
    probe_steps: int = 2
    seed: int = 0

    def solve(
        self, A: LinearOperator, k: int, tol: float, report: Callable[[Progress], None]
    ) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, to residuals ≤ tol · s₁ if it can.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        n = A.shape[1]
        limit = min(n, self.max_size or n)
        state = Factorization(
            A,
            block_size=self.block_size,
            seed=self.seed,
            capacity=min(limit, 2 * k),
            most=limit,
        )
        room = _Room(limit, k, self.max_restarts)
        state.initialize()
        fro2, fro2_error = estimated_frobenius(state)
        goal = aim = _SAFETY * tol
        history: list[tuple[int, float]] = []
        due, probed = k, False
        while not state.exhausted:
            if state.expanded >= due or room.is_full(state):
                ritz = state.ritz(k)
                worst = _worst(ritz)
                report(_progress(ritz, goal, A))
                if worst <= aim and aim > _TELLING and self._trusted(ritz, tol, A.dtype) < k:
                    # Sharper residuals tell crowded values apart for less than a long probe costs.
                    aim /= 10
                elif worst <= aim:
                    probed = self._nothing_was_missing(state, ritz, tol, room)
                    if probed or room.is_spent(state):
                        break
                    history.clear()
                    due = state.expanded
                    continue
                history.append((state.expanded, worst))
                due = _next_check(history, state.size, aim, self.block_size)
            if room.is_spent(state):
                break
            room.expand(state)
        ritz = state.ritz(k)
        report(_progress(ritz, goal, A))
        complete = probed or state.exhausted
        if state.exhausted:
            fro2, fro2_error = float((column_lengths(state.AV) ** 2).sum()), 0.0
            evidence = "the bases span the whole space"
        elif probed:
            evidence = "random columns, expanded after convergence, raised no value"
        else:
            evidence = f"none: given up after {room.restarts} restarts of {limit} columns"
        trusted = k if complete else self._trusted(ritz, tol, A.dtype)
        s, residuals, U, V = state.triplets(ritz)
        return Triplets(s, residuals, U, V, fro2, fro2_error, complete, evidence, trusted)

    def _nothing_was_missing(
        self, state: Factorization, before: Ritz, tol: float, room: _Room
    ) -> bool:
        """Expand with random columns beside the Krylov block; see whether a leading value rises.

        A block of b random columns meets at most b copies of a repeated value. So where b values
        look alike, and others follow, b columns are added and given as many steps as the start
        block had; elsewhere few columns and steps will do.
        """
        crowded = self._trusted(before, tol, state.V.dtype) < before.s.shape[0]
        width = self.block_size if crowded else self.probe_width
        steps = max(self.probe_steps, state.steps if crowded else 0)
        state.add_random(width)
        goal = _SAFETY * tol
        look = self.probe_steps
        for step in range(1, steps + 1):
            if state.exhausted or room.is_spent(state):
                return False
            room.expand(state)
            if step in (look, steps):
                look *= 2
                after = state.ritz(before.s.shape[0])
                allowed = goal * float(after.s[0])
                if (after.s - before.s > allowed).any() or (after.estimates > allowed).any():
                    return False
        return True

    def _trusted(self, ritz: Ritz, tol: float, dtype: torch.dtype) -> int:
        """Count the leading values that are right to tol · s₁ even if values are missing.

        The first b values in a row that their residuals and rounding do not tell apart may stand
        for more; these would displace all values more than a tolerance below the first of them.
        """
        s, links = ritz.s, self.block_size - 1
        if s.shape[0] <= links:
            return s.shape[0]
        rounding = _ROUNDING * torch.finfo(dtype).eps * s[0]
        reach = ritz.estimates[:-1] + ritz.estimates[1:] + rounding
        linked = torch.nn.functional.pad((s[:-1] - s[1:] <= reach).cumsum(0), (1, 0))
        crowds = (linked[links:] - linked[: linked.shape[0] - links] == links).nonzero()
        if len(crowds) == 0:
            return s.shape[0]
        return int((s >= s[int(crowds[0])] - tol * s[0]).sum())


class _Room:
    """How many columns the bases may have, and what is done when they are full."""

    def __init__(self, limit: int, k: int, max_restarts: int) -> None:
        self._limit = limit
        self._wanted = k
        self._most = max_restarts
        self.restarts = 0

    def is_full(self, state: Factorization) -> bool:
        """Whether the next block does not fit."""
        return state.size + state.F.shape[1] > self._limit

    def is_spent(self, state: Factorization) -> bool:
        """Whether the bases are full and no restart is left, or one would leave no room."""
        if not self.is_full(state):
            return False
        return self.restarts >= self._most or self._wanted + state.F.shape[1] > self._limit

    def expand(self, state: Factorization) -> None:
        """Expand by the next block, after a restart if it does not fit.

        A restart keeps the wanted triplets and half of what is left beside them and the block: the
        vectors just behind the wanted ones speed up these.
        """
        if self.is_full(state):
            spare = self._limit - self._wanted - state.F.shape[1]
            state.restart(self._wanted + spare // 2)
            self.restarts += 1
        state.expand()


def _worst(ritz: Ritz) -> float:
    """Return the largest predicted residual relative to s₁."""
    scale = float(ritz.s[0])
    return float(ritz.estimates.max()) / scale if scale > 0 else 0.0


def _progress(ritz: Ritz, goal: float, A: LinearOperator) -> Progress:
    done = int((ritz.estimates <= goal * ritz.s[0]).sum())
    return Progress(done, ritz.s.shape[0], _worst(ritz), A.products)


def _next_check(history: list[tuple[int, float]], size: int, goal: float, block_size: int) -> int:
    """Return after how many columns in all to solve the projected problem again.

    The worst residual falls about geometrically with the columns, so the last two looks predict
    where it meets the goal; the solver goes most of that way, at most an eighth of the size.
    """
    columns, worst = history[-1]
    step = size // 8
    if len(history) > 1 and 0 < worst < history[-2][1]:
        rate = math.log(history[-2][1] / worst) / (columns - history[-2][0])
        step = min(step, math.ceil(0.8 * math.log(max(worst / goal, 1.0)) / rate))
    return columns + max(block_size, step)
