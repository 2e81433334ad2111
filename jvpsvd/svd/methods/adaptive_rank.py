"""As many triplets as it takes to hold a share of the energy, or to reach small values.

Random blocks are added to a Krylov factorisation round by round (Halko, Martinsson & Tropp 2011,
section 4.4, with the powers kept). What is still outside is estimated from the random columns of
each round, which are uniform in the complement of everything before them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.factorization import Factorization
from jvpsvd.svd.krylov.frobenius import ProbeSample
from jvpsvd.svd.krylov.ritz import measured_triplets, ritz_triplets
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Evidence, Triplets

# Energy has to be reached by this many standard errors.
_SURELY = 2.0


@dataclass(frozen=True)
class AdaptiveRank:
    """Hyper-parameters of the search for a rank; one of `energy` and `tail` must be given.

    Args:
        energy: Share of ‖A‖²_F that the triplets are to hold, in (0, 1).
        tail: Values are wanted down to tail · s₁, in (0, 1).
        width: Columns of the starting block, and random ones that are added every round.
        steps: Expansions of a round.
        oversample: The bases grow to this many columns per triplet before the answer counts.
        max_size: Columns of the bases at which it stops; None: the shorter side.
    """

    energy: float | None = None
    tail: float | None = None
    width: int = 8
    steps: int = 2
    oversample: float = 1.5
    max_size: int | None = None

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the leading j ≤ k triplets of A (m, n), m ≥ n, that suffice; k if none does.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        k, n = request.k, A.shape[-1]
        limit = n if self.max_size is None else min(n, self.max_size)
        width = min(self.width, limit)
        bases = Factorization(
            A,
            block_size=width,
            seed=request.seed,
            capacity=min(limit, 4 * width),
            max_size=limit,
            monitor=monitor,
        )
        bases.initialize()
        sample = ProbeSample(1)
        sample.start(bases)
        while True:
            with monitor.phase("projected problem"):
                s = ritz_triplets(bases, bases.size).s
            fro2, error = float((bases.B**2).sum()), 0.0
            outside = 0.0
            if not bases.exhausted:
                fro2, error = float(sample.fro2), float(sample.fro2_error)
                outside = sample.outside(bases.B)
            rank = self._rank(s, fro2 + _SURELY * error, outside)
            share = min(1.0, bases.size / limit)
            go_on = monitor.report(min(rank or 0, k), k, share=share)
            enough = rank is not None and self.oversample * min(rank, k) <= bases.size
            if enough or bases.exhausted or not go_on:
                break
            spare = limit - bases.size - bases.F.shape[-1]
            columns = bases.add_probe_columns(min(width, spare)) if spare > 0 else 0
            sample.add(columns, first=bases.size)
            if bases.size + bases.F.shape[-1] > limit:
                break
            for _ in range(self.steps):
                if bases.exhausted or bases.size + bases.F.shape[-1] > limit:
                    break
                bases.expand()
                sample.update(bases)
        count = max(1, min(k, bases.size if rank is None else rank))
        with monitor.phase("vectors"):
            s, residuals, U, V = measured_triplets(bases, ritz_triplets(bases, count))
        # Residuals say nothing of copies that were not met: what is outside displaces less.
        allowed = request.tol * s[0]
        good = ((residuals <= allowed) & (s >= outside - allowed)).long()
        whole = bases.exhausted
        searched = "none: the rank was searched for, residuals say how near each triplet is"
        if monitor.stopped and not enough:
            searched = "none: the search was stopped, and the rank is not known"
            good = torch.zeros_like(good)
        evidence = Evidence(
            fro2,
            error,
            whole,
            "the bases span the whole space" if whole else searched,
            count if whole else int(good.cumprod(0).sum()),
            outside,
        )
        return Triplets(s, residuals, U, V, (evidence,))

    def _rank(self, s: Tensor, fro2: float, outside: float) -> int | None:
        """Return how many values suffice, or None if those found do not.

        Interior values of a Krylov space say nothing of what is not in it. So the tail counts as
        reached when nothing larger is found outside, in the columns that came last.
        """
        if float(s[0]) == 0.0:
            return 1
        if self.energy is not None:
            target = self.energy * fro2
            held = (s**2).cumsum(0)
            if not math.isfinite(target) or float(held[-1]) < target:
                return None
            return int((held < target).sum()) + 1
        if self.tail is None:
            raise ArgumentError("give the share of energy to hold, or the size of the tail")
        least = self.tail * float(s[0])
        return int((s >= least).sum()) if outside < least else None
