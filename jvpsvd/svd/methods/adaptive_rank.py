"""As many triplets as an operator needs: until a share of its energy is held, or values are small.

Random blocks are added to a Krylov factorisation round by round (Halko, Martinsson & Tropp 2011,
section 4.4, with the powers kept). What is still outside is estimated from the random columns of
each round, which are uniform in the complement of everything before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.frobenius import estimated_frobenius
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Evidence, Triplets

# Energy has to be reached by this many standard errors.
_SURELY = 2.0


@dataclass(frozen=True)
class AdaptiveRank:
    """Hyper-parameters of the search for a rank; one of `energy` and `tail` must be given.

    Args:
        energy: Share of ‖A‖²_F that the triplets are to hold, in (0, 1).
        tail: Values are wanted down to tail · s₁, in (0, 1).
        width: Columns of the starting block, and random ones that join every round.
        steps: Expansions of a round.
        oversample: The bases grow to this many columns per triplet before the answer counts.
        max_size: Columns of the bases at which it stops; None: the shorter side.
        seed: Of everything random.
    """

    energy: float | None = None
    tail: float | None = None
    width: int = 8
    steps: int = 2
    oversample: float = 1.5
    max_size: int | None = None
    seed: int = 0

    def solve(
        self, A: LinearOperator, k: int, tol: float, report: Callable[[Progress], None]
    ) -> Triplets:
        """Return the leading j ≤ k triplets of A (m, n), m ≥ n, that suffice; k if none does.

        Raises:
            ArgumentError: If A is a batch, whose matrices would have different ranks.
            NonFiniteError: If a product holds NaN or infinity.
        """
        if A.batch:
            raise ArgumentError(
                "the matrices of a batch have ranks of their own; search them one at a time"
            )
        n = A.shape[-1]
        limit = n if self.max_size is None else min(n, self.max_size)
        width = min(self.width, limit)
        state = Factorization(
            A, block_size=width, seed=self.seed, capacity=min(limit, 4 * width), most=limit
        )
        state.initialize()
        fro2, error = estimated_frobenius(state.B, 0, n)
        anchor = 0
        while True:
            if state.exhausted:
                fro2, error = (state.B**2).sum(), torch.zeros(())
            s = state.ritz(state.size).s
            outside = 0.0
            if not state.exhausted:
                outside = float(torch.linalg.matrix_norm(state.B[:, anchor:], 2))
            rank = self._rank(s, fro2 + _SURELY * error, outside)
            report(Progress(min(rank or 0, k), k, 1.0 - min(1.0, state.size / limit), A.products))
            enough = rank is not None and self.oversample * min(rank, k) <= state.size
            if enough or state.exhausted:
                break
            room = limit - state.size - state.F.shape[-1]
            joined = state.add_random(min(width, room)) if room > 0 else 0
            if state.size + state.F.shape[-1] > limit:
                break
            anchor = state.size
            for step in range(self.steps):
                if state.exhausted or state.size + state.F.shape[-1] > limit:
                    break
                state.expand()
                if step == 0 and joined:
                    fro2, error = estimated_frobenius(state.B, state.size - joined, n)
        count = max(1, min(k, state.size if rank is None else rank))
        s, residuals, U, V = state.triplets(state.ritz(count))
        # Residuals say nothing of copies that were not met: what is outside displaces less.
        allowed = tol * s[0]
        good = ((residuals <= allowed) & (s >= outside - allowed)).long()
        whole = state.exhausted
        known = Evidence(
            float(fro2),
            float(error),
            whole,
            "the bases span the whole space"
            if whole
            else "none: the rank was searched for, residuals say how near each triplet is",
            count if whole else int(good.cumprod(0).sum()),
            outside,
        )
        return Triplets(s, residuals, U, V, (known,))

    def _rank(self, s: Tensor, fro2: Tensor, outside: float) -> int | None:
        """Return how many values suffice, or None if those found do not.

        Interior values of a Krylov space say nothing of what is not in it. So the tail counts as
        reached when nothing larger is found outside, in the columns that came last.
        """
        if float(s[0]) == 0.0:
            return 1
        if self.energy is not None:
            goal = self.energy * float(fro2)
            held = (s**2).cumsum(0)
            if not math.isfinite(goal) or float(held[-1]) < goal:
                return None
            return int((held < goal).sum()) + 1
        if self.tail is None:
            raise ArgumentError("give the share of energy to hold, or the size of the tail")
        least = self.tail * float(s[0])
        return int((s >= least).sum()) if outside < least else None
