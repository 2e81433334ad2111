"""Leading singular triplets by block Golub–Kahan, for one operator or a batch in lock step.

The solver expands a `Factorization` until the recurrence says that the k leading triplets are
accurate, has random columns join before the end to show whether something is missing, and then
measures. A block that copies of one value fill begins again, wider. Matrices of a batch that have
finished leave.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError, LeftBasisError
from jvpsvd.operators import LinearOperator
from jvpsvd.svd.krylov.convergence import Verdict, Vigil, too_narrow, trusted
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.finished import Collected
from jvpsvd.svd.krylov.frobenius import estimated_frobenius
from jvpsvd.svd.krylov.restarts import Limits
from jvpsvd.svd.memory import reserved
from jvpsvd.svd.progress import Progress
from jvpsvd.svd.triplets import Evidence, Triplets

# The recurrence does not see rounding in the products, so it has to end a little below the goal.
_SAFETY = 0.7
# A value in bases that have grown by less beside k columns, and were given up, is there by chance:
# a residual that a coarse tolerance allows says nothing of larger ones.
_LEAST_BLOCKS = 2
# Orthogonality that U may lose, in units of tol. Residuals lose a sixth of it as a rule. Seldom all
# and more: a solve that misses tol, and may owe it to a loss above the second number, is repeated.
_LOSS, _SUSPECT = 1.0, 0.15
# Losses of less are no reason: products themselves are no better.
_ROUNDING = 5.0
# Far from the goal looks may be a sixth of the columns apart, near it a 24th: convergence gets
# faster towards the end, and a look may take as long as a step.
_NEAR, _COARSE, _FINE = 30.0, 6, 24


@dataclass(frozen=True)
class GolubKahan:
    """Hyper-parameters of the solver.

    Args:
        block_size: Width of a step: small blocks need fewer products, wide ones cost less each.
            Where copies of one value fill it, the solver begins again with twice the width.
        widest_block: Width up to which it does; None: as far as the bases have room for it.
        max_size: Columns that the bases have room for, and at which they restart; None: the shorter
            side, where the factorisation is exact.
        values_size: The same where U is not kept; it begins again with U instead of restarting.
        compacts: Whether bases of one matrix restart small (`compact_size`) from when on timings
            say that dense work on large ones costs more than the products that this adds.
        max_restarts: Restarts after which it gives up, or lets compact bases grow again.
        probe_width: Random columns that join before the end, to meet what the start block missed.
        probe_steps: Expansions that these columns are given.
        loss: Orthogonality that U may lose, in units of tol; 0: U is reorthogonalised fully.
        seed: Of the starting block, refill and random columns.
    """

    block_size: int = 16
    widest_block: int | None = None
    max_size: int | None = None
    values_size: int | None = None
    compacts: bool = False
    max_restarts: int = 100
    probe_width: int = 4
    probe_steps: int = 2
    loss: float = _LOSS
    seed: int = 0

    def solve(
        self,
        A: LinearOperator,
        k: int,
        tol: float,
        report: Callable[[Progress], None],
        *,
        vectors: bool = True,
        start: Tensor | None = None,
    ) -> Triplets:
        """Return the k leading triplets of A (m, n), m ≥ n, to residuals ≤ tol · s₁ if it can.

        Args:
            A: The operator, or a batch of them.
            k: Triplets wanted.
            tol: Residual, relative to s₁.
            report: Is shown every look.
            vectors: Without them U is not kept, as long as that is safe.
            start: (n, j) vectors near the wanted right singular vectors.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        keep_left, solver = vectors, self
        rounding = _ROUNDING * torch.finfo(A.dtype).eps
        while True:
            run = _Run(solver, A, k, tol, report, keep_left=keep_left, start=start)
            try:
                found = run.solve()
            except LeftBasisError:
                keep_left = True  # rank was lost, or most digits of U would be
                del run  # its bases, before others are made
                continue
            lost = run.lost
            del run
            if found is None:
                solver = replace(solver, block_size=2 * solver.block_size)
            elif lost > _SUSPECT * tol > rounding and _missed(found, tol):
                solver = replace(solver, loss=0.0)
                del found
            else:
                return found


@dataclass
class _Matrix:
    """What the run remembers of one matrix of the batch that has not finished."""

    place: int
    vigil: Vigil
    history: list[tuple[int, float]] = field(default_factory=list)
    """Columns expanded by and worst residual relative to s₁, look by look."""


class _Run:
    """One solve under way."""

    def __init__(
        self,
        solver: GolubKahan,
        A: LinearOperator,
        k: int,
        tol: float,
        report: Callable[[Progress], None],
        *,
        keep_left: bool,
        start: Tensor | None,
    ) -> None:
        n = A.shape[-1]
        size = solver.max_size if keep_left else solver.values_size
        room = n if size is None else min(n, size)
        if room < k:
            raise ArgumentError(
                f"left vectors are needed, and memory holds {room} of them beside the rest, fewer "
                f"than k={k}; raise memory or lower k"
            )
        if room < n:  # bases must hold k columns when they are full
            solver, start = _narrowed(solver, room - k, start)
        self._solver, self._A, self._k, self._tol, self._report = solver, A, k, tol, report
        self._keep_left, self._start = keep_left, start
        self._state = Factorization(
            A,
            block_size=solver.block_size,
            seed=solver.seed,
            capacity=reserved(room, k, solver.block_size),
            most=room,
            keep_left=keep_left,
            loss=min(solver.loss * tol, math.sqrt(torch.finfo(A.dtype).eps)),
        )
        self._limits = Limits(room, k, solver.max_restarts)
        self._goal = _SAFETY * tol
        count = A.batch[0] if A.batch else 1
        self._matrices = [_Matrix(i, Vigil(self._goal, self._goal)) for i in range(count)]
        self._found = Collected(A, k)
        self._fro2 = torch.full((count,), math.nan), torch.full((count,), math.nan)
        self._anchor = 0
        self._joined = 0
        self._began = time.perf_counter()
        self._working = 0.0

    @property
    def lost(self) -> float:
        """Orthogonality that U was expected to lose at most."""
        return self._state.lost

    def solve(self) -> Triplets | None:
        """Return the triplets, or None where a block of twice the width is to begin again."""
        state, start = self._state, self._start
        state.initialize(start)
        if start is None:
            self._sample(known=0)
        else:
            # A chosen start is no random sample, and may hold nothing of what is wanted.
            self._joined = state.add_random(self._solver.probe_width)
            for matrix in self._matrices:
                matrix.vigil = matrix.vigil.joined(state.steps, 2 * self._solver.probe_steps)
        due = self._k
        while not state.exhausted:
            # Bases without U cannot restart: what they hold is judged before they begin again.
            ends = not self._keep_left and self._limits.is_full(state)
            if state.expanded >= due or ends or self._limits.is_spent(state):
                following = self._look()
                if following is None:
                    return None
                due = following
                if not self._matrices:
                    return self._found.triplets()
            if self._limits.is_spent(state):
                break
            self._expand()
        ritz = state.ritz(self._k)
        self._show(ritz)
        given_up = f"{self._limits.restarts} restarts of {self._limits.room} columns"
        evidence = (
            "the bases span the whole space"
            if state.exhausted
            else f"none: given up after {given_up}"
        )
        self._finish(ritz, list(range(len(self._matrices))), state.exhausted, evidence)
        return self._found.triplets()

    def _look(self) -> int | None:
        """Judge every matrix, let go of those that are done, and return when to look again.

        None: a value was found as often as the block is wide. To begin again with a wider one costs
        less than random columns, which would need as many steps as the block has had.
        """
        state = self._state
        began = time.perf_counter()
        ritz = state.ritz(self._k)
        self._working += time.perf_counter() - began
        self._show(ritz)
        if self._is_too_narrow(ritz):
            return None
        verdicts = []
        for matrix, s, estimates in self._each(ritz):
            crowded = self._trusted(s, estimates) < self._k
            matrix.vigil, verdict = matrix.vigil.look(s, estimates, state.steps, crowded)
            matrix.history.append((state.expanded, float(estimates.max() / s[0].clamp_min(1e-300))))
            verdicts.append(verdict)
        done = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.DONE]
        if done:
            evidence = "random columns, expanded before the end, raised no value"
            self._finish(ritz, done, True, evidence)
            stay = [i for i in range(len(verdicts)) if i not in done]
            if not stay:
                return 0
            index = torch.tensor(stay)
            state.select(index)
            self._fro2 = self._fro2[0][index], self._fro2[1][index]
            verdicts = [verdicts[i] for i in stay]
            ritz = ritz.select(index)
        self._weigh()
        self._join(ritz, verdicts)
        return min(
            self._next_look(matrix, verdict)
            for matrix, verdict in zip(self._matrices, verdicts, strict=True)
        )

    def _join(self, ritz: Ritz, verdicts: list[Verdict]) -> None:
        """Let random columns join the next block if one of the matrices asks for them."""
        solver, steps = self._solver, self._state.steps
        block = Verdict.ADD_BLOCK in verdicts
        if not block and Verdict.ADD_FEW not in verdicts:
            return
        width = max(solver.block_size if block else 0, solver.probe_width)
        self._make_room(width)  # now: they are a sample beside all that the bases hold
        self._joined += self._state.add_random(width)
        self._limits.widen(self._state)
        self._anchor = self._state.size
        for (matrix, s, _), verdict in zip(self._each(ritz), verdicts, strict=True):
            if verdict is Verdict.ADD_BLOCK:
                more = max(solver.probe_steps, steps)
                matrix.vigil = matrix.vigil.joined(steps, more, s)
            elif matrix.vigil.until is None:
                matrix.vigil = matrix.vigil.joined(steps, solver.probe_steps)

    def _finish(self, ritz: Ritz, done: list[int], complete: bool, evidence: str) -> None:
        """Measure the triplets of these matrices and let them go."""
        known = {i: self._evidence(i, ritz, complete, evidence) for i in done}
        if len(done) == len(self._matrices):
            s, residuals, U, V = self._state.triplets(ritz)
            places = [matrix.place for matrix in self._matrices]
            self._found.add(places, Triplets(s, residuals, U, V, tuple(known.values())))
        else:
            # One by one: a part of a basis would be a copy of it.
            for i in done:
                s, residuals, U, V = self._state.triplets(ritz, i)
                one = Triplets(s, residuals, U, V, (known[i],))
                self._found.add([self._matrices[i].place], one)
        self._matrices = [matrix for i, matrix in enumerate(self._matrices) if i not in done]

    def _evidence(self, i: int, ritz: Ritz, complete: bool, evidence: str) -> Evidence:
        """Return what is known of matrix i beside its triplets."""
        _, s, estimates = self._each(ritz)[i]
        state = self._state
        B = state.B.reshape(-1, state.size, state.size)[i]
        if state.exhausted:
            return Evidence(float((B**2).sum()), 0.0, complete, evidence, self._k, 0.0)
        outside = B[:, self._anchor :]
        guaranteed = self._k if complete else self._trusted(s, estimates)
        if not complete and state.expanded < self._k + _LEAST_BLOCKS * self._solver.block_size:
            guaranteed = 0
        return Evidence(
            fro2=float(self._fro2[0][i]),
            fro2_error=float(self._fro2[1][i]),
            complete=complete,
            evidence=evidence,
            trusted=guaranteed,
            epsilon=float(torch.linalg.matrix_norm(outside, 2)) if outside.numel() else math.nan,
        )

    def _trusted(self, s: Tensor, estimates: Tensor) -> int:
        return trusted(s, estimates, self._tol, self._solver.block_size, self._A.dtype)

    def _is_too_narrow(self, ritz: Ritz) -> bool:
        """Whether copies fill the block and twice its width fits. Others of a batch go on.

        Not once a block of random columns has joined, or the bases were full: that is paid for.
        """
        solver, width = self._solver, self._solver.block_size
        sizes = [self._A.shape[-1], solver.max_size, solver.values_size]
        room = min(size for size in sizes if size is not None)
        widest = room if solver.widest_block is None else solver.widest_block
        if self._A.batch or 2 * width > widest or self._k + 4 * width > room:
            return False
        if self._limits.restarts or self._matrices[0].vigil.before is not None:
            return False
        return too_narrow(ritz.s, ritz.estimates, self._tol, width, self._A.dtype)

    def _weigh(self) -> None:
        """Let timings say whether bases of one matrix should be small; not near the end."""
        if not self._solver.compacts or not self._keep_left or self._A.batch:
            return
        (matrix,) = self._matrices
        if matrix.vigil.until is None and matrix.history[-1][1] > _NEAR * matrix.vigil.aim:
            self._limits.weigh(self._state, self._working, self._A.shape)

    def _make_room(self, beside: int = 0) -> None:
        """Restart if the next block, and so many columns beside it, do not fit."""
        state, limits = self._state, self._limits
        if not limits.is_full(state, beside) or not limits.may_restart(state, beside):
            return
        if not self._keep_left:
            raise LeftBasisError
        self._anchor = limits.restart(state, beside)

    def _expand(self) -> None:
        """Expand by the next block, after a restart if it does not fit."""
        began = time.perf_counter()
        state = self._state
        self._make_room()
        state.expand()
        if self._joined:
            self._sample(known=state.size - self._joined)
            self._joined = 0
        self._working += time.perf_counter() - began

    def _sample(self, known: int) -> None:
        fro2, error = estimated_frobenius(self._state.B, known, self._A.shape[-1])
        self._fro2 = fro2.reshape(-1), error.reshape(-1)

    def _each(self, ritz: Ritz) -> list[tuple[_Matrix, Tensor, Tensor]]:
        s, estimates = ritz.s.reshape(-1, self._k), ritz.estimates.reshape(-1, self._k)
        return list(zip(self._matrices, s, estimates, strict=True))

    def _next_look(self, matrix: _Matrix, verdict: Verdict) -> int:
        """Return after how many columns in all to solve the projected problem again."""
        state, vigil = self._state, matrix.vigil
        width = state.F.shape[-1]
        if vigil.until is not None and (vigil.before is not None or verdict is not Verdict.SEEK):
            # Twice as many steps as random columns have had, and not beyond those they need.
            had = max(self._solver.probe_steps, state.steps - vigil.since)
            return state.expanded + max(1, min(vigil.until - state.steps, had)) * width
        columns, worst = matrix.history[-1]
        step = state.expanded // (_COARSE if worst > _NEAR * vigil.aim else _FINE)
        rate = _rate(matrix.history)
        if rate > 0:
            step = min(step, math.ceil(0.8 * math.log(max(worst / vigil.aim, 1.0)) / rate))
        return columns + max(width, step)

    def _show(self, ritz: Ritz) -> None:
        done, worst, slowest = self._found.count * self._k, 0.0, 0.0
        per_column = (time.perf_counter() - self._began) / self._state.expanded
        for matrix, s, estimates in self._each(ritz):
            top = float(s[0])
            done += int((estimates <= self._goal * top).sum())
            now = float(estimates.max()) / top if top > 0 else 0.0
            worst = max(worst, now)
            rate = _rate(matrix.history)
            ahead = math.log(max(now / self._goal, 1.0)) / rate if rate > 0 else math.nan
            slowest = max(slowest, ahead) if ahead == ahead else ahead
        wanted = self._k * (self._found.count + len(self._matrices))
        left = None if math.isnan(slowest) else slowest * per_column
        self._report(Progress(done, wanted, worst, self._A.products, left))


def _narrowed(
    solver: GolubKahan, spare: int, start: Tensor | None
) -> tuple[GolubKahan, Tensor | None]:
    """Return solver and start for steps no wider than `spare`: no start without random columns."""
    width = max(1, min(solver.block_size, spare))
    probes = 0 if start is None else min(solver.probe_width, spare - width)
    if probes <= 0:
        return replace(solver, block_size=width), None
    return replace(solver, block_size=width, probe_width=probes), start


def _missed(found: Triplets, tol: float) -> bool:
    """Whether triplets that the recurrence took for accurate were measured not to be."""
    complete = all(known.complete for known in found.known)
    return complete and bool((found.residuals > tol * found.s[..., :1]).any())


def _rate(history: list[tuple[int, float]]) -> float:
    """Return how fast the worst residual falls: the logarithm per column between two looks."""
    if len(history) < 2:
        return 0.0
    (before, high), (now, low) = history[-2:]
    return math.log(high / low) / (now - before) if 0 < low < high and now > before else 0.0
