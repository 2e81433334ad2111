"""The smallest number of triplets that hold a share of the energy, or reach a small value.

Each round adds a random block to a Krylov factorisation (Halko, Martinsson & Tropp 2011, section
4.4, but all powers are kept). The random columns of a round are uniform in the orthogonal
complement of the bases, so they give an estimate of what is still outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.frobenius import ProbeSample
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.kept_recurrence import KeptRecurrence
from jvpsvd.svd.krylov.ritz import ritz_triplets
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Evidence, Triplets

# The share of energy must be exceeded by this many standard errors: a cautious guess.
_SURELY = 2.0


@dataclass(frozen=True)
class AdaptiveRank:
    """Hyper-parameters of the search for a rank; one of `energy` and `tail` must be given.

    Args:
        energy: Share of ‖A‖²_F that the triplets are to hold, in (0, 1).
        tail: Values are wanted down to tail · s₁, in (0, 1).
        width: Columns of the starting block, and random columns added in every round.
        steps: Expansions in a round.
        oversample: The bases have at least this many columns per returned triplet.
        max_size: Number of columns at which the search stops; None: the shorter side.
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
        max_size = n if self.max_size is None else min(n, self.max_size)
        width = min(self.width, max_size)
        bases = GolubKahanFactorization(
            A,
            block_size=width,
            seed=request.seed,
            capacity=min(max_size, 4 * width),
            max_size=max_size,
            monitor=monitor,
        )
        bases.initialize()
        sample = ProbeSample(1)
        sample.start(bases)
        recurrence = KeptRecurrence(random=True)
        while True:
            with monitor.phase("projected problem"):
                s = ritz_triplets(bases, bases.size).s
            fro2, error, outside = sample.norms(bases, 0)
            rank = self._rank(s, fro2 + _SURELY * error, outside)
            share = min(1.0, bases.size / max_size)
            go_on = monitor.report(min(rank or 0, k), k, share=share)
            enough = rank is not None and self.oversample * min(rank, k) <= bases.size
            if enough or bases.exhausted or not go_on:
                break
            spare = max_size - bases.size - bases.F.shape[-1]
            recurrence.keep(bases)
            columns = bases.add_probe_columns(min(width, spare)) if spare > 0 else 0
            sample.add(columns, first=bases.size)
            if bases.size + bases.F.shape[-1] > max_size:
                break
            for _ in range(self.steps):
                if bases.exhausted or bases.size + bases.F.shape[-1] > max_size:
                    break
                bases.expand()
                sample.update(bases)
        count = max(1, min(k, bases.size if rank is None else rank))
        with monitor.phase("vectors"):
            s, residuals, U, V = bases.measure(ritz_triplets(bases, count))
        # Residuals say nothing about repetitions that were missed. The norm outside bounds what
        # these could displace.
        allowed = request.tol * s[0]
        good = ((residuals <= allowed) & (s >= outside - allowed)).long()
        whole = bases.exhausted
        searched = "none: the rank was searched for, residuals say how near each triplet is"
        if rank is None or rank > k:
            named = f"tail={self.tail:g}" if self.energy is None else f"energy={self.energy:g}"
            searched = f"none: {named} needs more than these {count} triplets; raise k or memory"
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
        return Triplets(s, residuals, U, V, (evidence,), (recurrence.sample(bases, 0),))

    def _rank(self, s: Tensor, fro2: float, outside: float) -> int | None:
        """Return how many values suffice; None if those found do not.

        Small Ritz values do not show that nothing larger is missing. So the tail counts as reached
        only if the last columns find nothing larger outside of the bases.
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
