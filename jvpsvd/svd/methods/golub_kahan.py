"""Leading singular triplets by block Golub–Kahan, for one operator or a batch in lock step.

The solver expands a `Factorization` until the recurrence predicts that the k leading triplets are
accurate. Before the end it adds probe columns, which show whether a value is missing. Then it
measures residuals. Where a repeated value fills a block, it searches for further copies, and begins
again with a wider block if there are some.
Finished matrices leave the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.batch_convergence import BatchConvergence
from jvpsvd.svd.krylov.convergence import Action
from jvpsvd.svd.krylov.copies import (
    excludes_copies,
    shows_displacing_value,
    shows_value_beside_sharp_ones,
)
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.finished import FinishedTriplets
from jvpsvd.svd.krylov.frobenius import ProbeSample
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.kept_recurrence import KeptRecurrence
from jvpsvd.svd.krylov.lanczos import LanczosFactorization
from jvpsvd.svd.krylov.multiplicity import block_is_too_narrow, values_lie_close
from jvpsvd.svd.krylov.restarts import RestartPolicy, least_size
from jvpsvd.svd.krylov.retry import RetryWith
from jvpsvd.svd.krylov.ritz import ritz_triplets
from jvpsvd.svd.memory import reserved_columns
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Evidence, Triplets
from jvpsvd.text_table import count_noun

# If a solve gives up before the bases were expanded by k columns and this many blocks, no value is
# guaranteed: at a coarse tolerance, small residuals do not show that no larger value is missing.
_LEAST_BLOCKS = 2
# Orthogonality that U may lose, in units of tol.
_LOSS = 1.0
# Orthogonality that V may lose where U is not formed, as a share of that.
_LOSS_OF_V = 0.1


@dataclass(frozen=True)
class GolubKahan:
    """Hyper-parameters of the solver.

    Args:
        block_size: Width of a block. Narrow blocks need fewer products; each product costs less in
            wide ones. Where copies of a repeated value are missing, the solver begins again with
            twice the width.
        widest_block: Largest width of such a block; None: as wide as the bases allow.
        max_size: Number of columns that fit into memory, at which the bases restart; None: the
            shorter side, at which the factorisation is exact.
        values_size: The same while U is formed and not kept. Such bases cannot restart, so the
            solver begins again and keeps U.
        may_compact: Whether the bases of a single matrix may change to `compact_size` columns, once
            timings show that dense work on large bases costs more than the additional products.
        max_restarts: Number of restarts after which the solver gives up, or lets compact bases grow
            again.
        probe_width: Number of probe columns that are added before the end, to find what the start
            missed.
        probe_steps: Number of expansions after probe columns were added.
        loss: Orthogonality that U may lose, in units of tol; 0: U is reorthogonalised fully.
        forms_left: Whether U is formed. Without it a step costs less beside its products, k
            products more measure the triplets, and values are right to eps s₁² / s. Where that does
            not do, the solve begins again with U.
    """

    block_size: int = 16
    widest_block: int | None = None
    max_size: int | None = None
    values_size: int | None = None
    may_compact: bool = False
    max_restarts: int = 100
    probe_width: int = 4
    probe_steps: int = 2
    loss: float = _LOSS
    forms_left: bool = True

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, to residuals ≤ tol · s₁ if possible.

        Without `request.vectors`, U is not kept while that is safe.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        solver, keep_left = self, request.vectors
        while True:
            try:
                return _Solve(solver, A, request, monitor, keep_left).run()
            except RetryWith as again:
                keep_left = keep_left if again.keep_left is None else again.keep_left
                solver = replace(
                    solver,
                    block_size=again.block_size or solver.block_size,
                    loss=solver.loss if again.loss is None else again.loss,
                    forms_left=solver.forms_left or bool(again.forms_left),
                )

    def may_widen(self, k: int, short: int) -> bool:
        """Tell whether the bases hold blocks of twice the width besides k columns."""
        sizes = [short, self.max_size, self.values_size]
        max_size = min(size for size in sizes if size is not None)
        twice = 2 * self.block_size
        widest = max_size if self.widest_block is None else self.widest_block
        return twice <= widest and max(k + 2 * twice, least_size(k, twice, short)) <= max_size


class _Solve:
    """One solve, from the start to the triplets.

    Each matrix of the batch goes through the states SEEK, PROBE (BLOCK_PROBE if values are
    clustered) and DONE: see `ConvergenceTest`.
    """

    def __init__(
        self,
        solver: GolubKahan,
        A: LinearOperator,
        request: Request,
        monitor: Monitor,
        keep_left: bool,
    ) -> None:
        k, n = request.k, A.shape[-1]
        max_size = _checked_size(n, solver.max_size if keep_left else solver.values_size, k)
        start = request.start
        if max_size < n:  # full bases must hold k columns
            solver, start = _narrow(solver, max_size - k, start)
        self._A, self._solver, self._request, self._monitor = A, solver, request, monitor
        self._keep_left, self._start = keep_left, start
        # Bases that form U and do not keep it cannot restart.
        self._can_restart = keep_left or not solver.forms_left
        self._may_compact = solver.may_compact and self._can_restart and not A.batch
        self._bases = self._make_bases(max_size)
        self._restarts = RestartPolicy(max_size, k, solver.max_restarts, monitor)
        count = A.batch[0] if A.batch else 1
        self._test = BatchConvergence(count, k, request.tol, solver.block_size, solver.probe_steps)
        self._sample = ProbeSample(count)
        self._recurrence = KeptRecurrence(random=start is None)
        self._finished = FinishedTriplets(A, k)
        self._has_searched = False
        self._next_check = k
        self._began = time.perf_counter()

    def _make_bases(self, max_size: int) -> Factorization:
        """Return bases without columns, which may grow to `max_size`."""
        A, solver, request = self._A, self._solver, self._request
        loss = solver.loss * request.tol
        capacity = reserved_columns(max_size, request.k, solver.block_size)
        form: Callable[..., Factorization]
        if solver.forms_left:
            loss = min(loss, math.sqrt(torch.finfo(A.dtype).eps))
            form = partial(GolubKahanFactorization, capacity=capacity, max_loss=loss)
        else:  # one basis in place of three; what is not written takes no memory
            form = partial(LanczosFactorization, capacity=2 * capacity, max_loss=_LOSS_OF_V * loss)
        return form(
            A,
            block_size=solver.block_size,
            seed=request.seed,
            max_size=max_size,
            keep_left=self._keep_left,
            monitor=self._monitor,
        )

    def run(self) -> Triplets:
        """Return the triplets.

        Raises:
            RetryWith: If the solve must begin again with another parameter.
        """
        bases, restarts = self._bases, self._restarts
        self._initialize()
        while True:
            if self._must_check():
                self._check()
            if not self._test.matrices or bases.exhausted or restarts.is_exhausted(bases):
                return self._finish()
            self._restart_if_full()
            bases.expand()
            self._sample.update(bases)

    def _initialize(self) -> None:
        bases, solver = self._bases, self._solver
        bases.initialize(self._start)
        if self._start is None:
            self._sample.start(bases)
            return
        # A given start is no random sample, and may be orthogonal to what is wanted.
        self._sample.add(bases.add_probe_columns(solver.probe_width), first=0)
        self._test.start_with_probe(bases.steps)

    def _must_check(self) -> bool:
        reached = self._bases.expanded >= self._next_check or self._ends()
        return reached and not self._bases.exhausted

    def _ends(self) -> bool:
        """Tell whether the bases cannot be expanded further.

        Those that cannot restart are checked once more before the solve begins again.
        """
        bases, restarts = self._bases, self._restarts
        full = not self._can_restart and restarts.is_full(bases)
        return full or restarts.is_exhausted(bases)

    def _check(self) -> None:
        """Check the matrices that are due, remove finished ones, add probe columns where needed."""
        bases, test = self._bases, self._test
        test.mark_due(bases, everyone=self._ends())
        ritz = self._solve_projected()
        may_widen = not self._monitor.stopped and self._may_begin_wider()
        if may_widen and self._shows_copies_early(ritz):
            raise RetryWith(block_size=2 * self._solver.block_size)
        actions = self._test_convergence(ritz, may_widen)
        cut_short = may_widen and self._monitor.stopped  # a search, which may have shown something
        done = [] if cut_short else test.done
        if done:
            stay = [i for i in range(len(actions)) if i not in done]
            evidence = "random columns, expanded before the end, raised no value"
            if test.copies_are_excluded(ritz.s):
                evidence += ", and one beside the triplets showed no further copy of a value"
            # A few probe columns need no larger bases; a block of them does.
            width = bases.F.shape[-1] if test.has_block_probe else bases.block_size
            forgets = self._restarts.forgets_probes(bases, width)
            if forgets:
                evidence = f"none: bases of {self._restarts.max_size} columns restart too soon"
            self._measure(ritz, done, not forgets, evidence)
            if not stay:
                return
            index = torch.tensor(stay)
            bases.select(index)
            self._sample.select(index)
            self._recurrence.select(index)
            actions, ritz = [actions[i] for i in stay], ritz.select(index)
        if self._monitor.stopped:
            if test.due is not None:
                ritz = ritz_triplets(bases, self._request.k)
            self._measure(ritz, list(range(len(actions))), False, "none: stopped by the caller")
            return
        if self._may_compact and test.is_far:
            self._restarts.consider_compact(bases)
        self._add_probe_columns(ritz, actions)
        self._next_check = test.next_check(actions, bases)

    def _finish(self) -> Triplets:
        """Measure the remaining matrices, and return all triplets."""
        bases, restarts = self._bases, self._restarts
        predicted = bases.exhausted or not self._test.matrices
        if self._test.matrices:
            after = count_noun(restarts.restarts, "restart")
            given_up = f"given up after {after} of {restarts.max_size} columns"
            evidence = "the bases span the whole space" if bases.exhausted else f"none: {given_up}"
            left = list(range(len(self._test.matrices)))
            self._test.mark_due(bases, everyone=True)
            self._measure(self._solve_projected(), left, bases.exhausted, evidence)
        triplets, tol = self._finished.triplets(), self._request.tol
        again = None if self._monitor.stopped else bases.retry_after_miss(tol)
        missed = bool((triplets.residuals > tol * triplets.s[..., :1]).any())
        if again is not None and predicted and missed:
            raise again
        return triplets

    def _solve_projected(self) -> Ritz:
        """Return the leading Ritz triplets, and report how far they are."""
        bases, k = self._bases, self._request.k
        with self._monitor.phase("projected problem"):
            ritz = ritz_triplets(bases, k, self._test.due)
            converged, worst, columns = self._test.progress(ritz)
        finished = self._finished.count
        wanted = k * (finished + len(self._test.matrices))
        per_column = (time.perf_counter() - self._began) / bases.expanded
        left = None if columns is None else columns * per_column
        done = finished * k + converged
        self._monitor.report(done, wanted, share=done / wanted, worst=worst, seconds_left=left)
        return ritz

    def _may_begin_wider(self) -> bool:
        """Tell whether the solve may begin again with blocks of twice the width.

        That takes about as many columns again. A block of probe columns takes at least twice as
        many, since it needs as many steps as the starting block had, beside that block. After a
        restart for want of memory the solve goes on, because beginning again would waste that work.
        A batch always goes on, because its other matrices may not need it.
        """
        A, k = self._A, self._request.k
        if A.batch or self._restarts.restarts or self._test.has_block_probe:
            return False
        return self._solver.may_widen(k, A.shape[-1])

    def _shows_copies_early(self, ritz: Ritz) -> bool:
        """Search once, as soon as a repeated value fills the block, for copies beyond it."""
        tol, width = self._request.tol, self._solver.block_size
        if self._has_searched or self._test.copies_are_excluded(ritz.s):
            return False
        if not block_is_too_narrow(ritz.s, ritz.estimates, tol, width, self._A.dtype):
            return False
        self._has_searched = True
        return shows_value_beside_sharp_ones(self._bases, ritz, tol, self._monitor)

    def _test_convergence(self, ritz: Ritz, may_widen: bool) -> list[Action]:
        """Return the action for each matrix; search for copies of a single one that may miss some.

        Raises:
            RetryWith: If the solve must begin again with wider blocks.
        """
        bases, test, tol, wider = self._bases, self._test, self._request.tol, False
        actions = test.check(ritz, bases)
        if self._A.batch or self._monitor.stopped:
            return actions
        if Action.ADD_PROBE_BLOCK in actions:
            if excludes_copies(bases, ritz, tol, self._monitor):
                test.exclude_copies(ritz.s)
                actions = test.check(ritz, bases)
            else:
                wider = may_widen
        elif test.done and may_widen and values_lie_close(ritz.s, tol, self._solver.block_size):
            wider = shows_displacing_value(bases, ritz, tol, self._monitor)
        if wider and not self._monitor.stopped:
            raise RetryWith(block_size=2 * self._solver.block_size)
        return actions

    def _add_probe_columns(self, ritz: Ritz, actions: list[Action]) -> None:
        """Add probe columns to the next block if one of the matrices asks for them."""
        bases, solver = self._bases, self._solver
        block = Action.ADD_PROBE_BLOCK in actions
        if not block and Action.ADD_PROBE_COLUMNS not in actions:
            return
        width = solver.probe_width
        if block:
            width = max(solver.block_size, width)
            if self._test.may_find_more(ritz, actions, bases):
                # Probe columns that are there already serve as a part of the block.
                width -= bases.F.shape[-1] - solver.block_size
        if width > 0:
            self._recurrence.keep(bases)
            # First, because the probe columns sample the complement of the bases as they are now.
            self._restart_if_full(width)
            self._sample.add(bases.add_probe_columns(width), first=bases.size)
            self._restarts.allow_wider_block(bases)
        self._test.add_probe(ritz, actions, bases.steps)

    def _restart_if_full(self, extra: int = 0) -> None:
        """Restart the bases if the next block and `extra` columns do not fit."""
        bases, restarts = self._bases, self._restarts
        if not restarts.is_full(bases, extra) or not restarts.may_restart(bases, extra):
            return
        if not self._can_restart:
            raise RetryWith(keep_left=True)
        self._recurrence.keep(bases)
        with self._monitor.phase("projected problem"):
            self._sample.restart(restarts.restart(bases, extra))

    def _measure(self, ritz: Ritz, done: list[int], complete: bool, evidence: str) -> None:
        """Measure the triplets of these matrices, and remove these from the batch."""
        whole = len(done) == len(self._test.matrices)
        # Matrices are measured one by one unless all are done: selecting several would copy their
        # bases.
        for matrix, members in [(None, done)] if whole else [(i, [i]) for i in done]:
            found = tuple(self._evidence(i, ritz, complete, evidence) for i in members)
            samples = tuple(self._recurrence.sample(self._bases, i) for i in members)
            with self._monitor.phase("vectors"):
                s, residuals, U, V = self._bases.measure(ritz, matrix)
            indices = [self._test.matrices[i].index for i in members]
            self._finished.add(indices, Triplets(s, residuals, U, V, found, samples))
        self._test.remove(done)

    def _evidence(self, i: int, ritz: Ritz, complete: bool, evidence: str) -> Evidence:
        """Return the evidence for the triplets of matrix i."""
        bases, k = self._bases, self._request.k
        guaranteed = k
        if not complete:
            s, estimates = ritz.s.reshape(-1, k)[i], ritz.estimates.reshape(-1, k)[i]
            few = bases.expanded < k + _LEAST_BLOCKS * self._solver.block_size
            forgets = self._restarts.forgets_probes(bases, bases.block_size)
            none = few or forgets or self._monitor.stopped
            guaranteed = 0 if none else self._test.guaranteed_so_far(s, estimates, bases)
        fro2, error, epsilon = self._sample.norms(bases, i)
        return Evidence(fro2, error, complete, evidence, guaranteed, epsilon)


def _checked_size(n: int, size: int | None, k: int) -> int:
    """Return the largest number of columns, if it is at least k."""
    max_size = n if size is None else min(n, size)
    if max_size < k:
        raise ArgumentError(
            f"left vectors are needed, and memory holds {max_size} of them besides the rest, "
            f"fewer than k={k}; raise memory or lower k"
        )
    return max_size


def _narrow(
    solver: GolubKahan, spare: int, start: Tensor | None
) -> tuple[GolubKahan, Tensor | None]:
    """Return solver and start for steps no wider than `spare`. A start needs probe columns too."""
    width = max(1, min(solver.block_size, spare))
    probes = 0 if start is None else min(solver.probe_width, spare - width)
    if probes <= 0:
        return replace(solver, block_size=width), None
    return replace(solver, block_size=width, probe_width=probes), start
