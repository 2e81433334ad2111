"""Leading singular triplets by block Golub–Kahan with full reorthogonalisation.

The solver expands a `Factorization` until the recurrence says that the k leading triplets are
accurate, lets random columns show whether something is missing, and then measures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.factorization import Factorization, Ritz
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Triplets, column_lengths, residual_lengths

# The recurrence does not see rounding in the products, so it has to end a little below the goal.
_SAFETY = 0.7


@dataclass(frozen=True)
class GolubKahan:
    """Hyper-parameters of the solver.

    Args:
        block_size: Vectors per step: small blocks need fewer products, wide ones cost less each.
        max_size: Columns of the bases at which it gives up; None: the shorter side, where the
            factorisation is exact.
        probe_width: Random columns added after convergence, to meet what the start block missed.
        probe_steps: Expansions that these columns are given.
        seed: Of the starting block, refill and probe.
    """

    block_size: int = 16
    max_size: int | None = None
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
            A, block_size=self.block_size, seed=self.seed, capacity=min(limit, 2 * k)
        )
        state.initialize()
        fro2, fro2_error = _frobenius(state)
        goal = _SAFETY * tol
        history: list[tuple[int, float]] = []
        due, probed = k, False
        while not (state.exhausted or state.size >= limit):
            if state.size >= due:
                ritz = state.ritz(k)
                worst = _worst(ritz)
                report(_progress(ritz, goal, A))
                if worst <= goal:
                    probed = self._nothing_was_missing(state, ritz, goal)
                    if probed:
                        break
                    history.clear()
                history.append((state.size, worst))
                due = _next_check(history, goal, self.block_size)
            state.expand()
        ritz = state.ritz(k)
        report(_progress(ritz, goal, A))
        if state.exhausted:
            evidence = "the bases span the whole space"
        elif probed:
            evidence = (
                f"{self.probe_width} random columns, expanded {self.probe_steps} times after "
                "convergence, raised no value"
            )
        else:
            evidence = f"none: the bases were full ({state.size} columns) before convergence"
        return _measured(state, ritz, fro2, fro2_error, probed or state.exhausted, evidence)

    def _nothing_was_missing(self, state: Factorization, before: Ritz, goal: float) -> bool:
        """Expand with random columns beside the Krylov block; see whether a leading value rises."""
        state.add_random(self.probe_width)
        for _ in range(self.probe_steps):
            if not state.exhausted:
                state.expand()
        after = state.ritz(before.s.shape[0])
        allowed = goal * float(after.s[0])
        return bool((after.s - before.s <= allowed).all() and (after.estimates <= allowed).all())


def _worst(ritz: Ritz) -> float:
    """Return the largest predicted residual relative to s₁."""
    scale = float(ritz.s[0])
    return float(ritz.estimates.max()) / scale if scale > 0 else 0.0


def _progress(ritz: Ritz, goal: float, A: LinearOperator) -> Progress:
    done = int((ritz.estimates <= goal * ritz.s[0]).sum())
    return Progress(done, ritz.s.shape[0], _worst(ritz), A.products)


def _next_check(history: list[tuple[int, float]], goal: float, block_size: int) -> int:
    """Return the size at which to solve the projected problem again.

    The worst residual falls about geometrically with the size, so the last two looks predict where
    it meets the goal; the solver goes most of that way, at most an eighth of the size, and looks.
    """
    size, worst = history[-1]
    step = size // 8
    if len(history) > 1 and 0 < worst < history[-2][1]:
        rate = math.log(history[-2][1] / worst) / (size - history[-2][0])
        step = min(step, math.ceil(0.8 * math.log(max(worst / goal, 1.0)) / rate))
    return size + max(block_size, step)


def _frobenius(state: Factorization) -> tuple[float, float]:
    """Estimate ‖A‖²_F, and its standard error, from the products of the starting block.

    For a uniformly random unit vector v of length n, E n |A v|² = ‖A‖²_F.
    """
    n, count = state.V.shape
    squares = n * column_lengths(state.AV) ** 2
    if count == n:
        return float(squares.mean()), 0.0
    spread = float(squares.std()) if count > 1 else math.inf
    return float(squares.mean()), spread / math.sqrt(count)


def _measured(
    state: Factorization, ritz: Ritz, fro2: float, fro2_error: float, complete: bool, evidence: str
) -> Triplets:
    def like(coefficients: Tensor) -> Tensor:
        return coefficients.to(dtype=state.V.dtype, device=state.V.device)

    s, left, right = like(ritz.s), like(ritz.left), like(ritz.right)
    U, V = state.U @ left, state.V @ right
    residuals = residual_lengths(
        s, U, V, lambda part: state.AV @ right[:, part], lambda part: state.AtU @ left[:, part]
    )
    return Triplets(s, residuals, U, V, fro2, fro2_error, complete, evidence)
