"""One run of one solver on one problem: what it returned or raised, and what that cost."""

from __future__ import annotations

import importlib
import math
import re
import time
import warnings
from dataclasses import dataclass

import torch

from benchmarks.measure.judging import Judgement, judge_answer, judge_batch
from benchmarks.problems.problem import OperatorProblem
from benchmarks.problems.references import Reference
from benchmarks.problems.spectra import spectral
from benchmarks.solvers.metering import OutOfTimeError
from benchmarks.solvers.protocol import Answer, Solver, Target, UnableError
from jvpsvd import LinearOperator

# With a warning that says one of these, a solver tells its user that the answer may be wrong.
_COMPLAINT = re.compile(
    r"converg|toleranc|accura|residual|nan\b|infinit|invalid value|overflow|"
    r"divide by zero|singular matrix|is singular|ill-?conditioned",
    re.I,
)
_MOST_CHARACTERS = 200
# The problem that is solved before the clock starts.
_SMALL, _SMALL_K, _SMALL_TOL, _SMALL_SECONDS = 1000, 5, 1e-3, 10.0


@dataclass(frozen=True)
class SolveRun:
    """What a solver returned, and what it cost."""

    answers: tuple[Answer, ...]
    """One answer, or one for each matrix of a batch; none where the solver raised."""
    seconds: float
    """The time of the solve, without that of making operators."""
    setup_seconds: float
    forward: int
    reverse: int
    product_seconds: float
    note: str = ""
    unable: bool = False

    def judge(self, reference: Reference, A: LinearOperator, tol: float) -> Judgement:
        """Judge the answer for one matrix, or all of a batch; a solver that raises is honest."""
        if self.unable:
            return Judgement("unable")
        if not self.answers:
            return Judgement("honest")
        if not A.batch:
            return judge_answer(self.answers[0], reference.values, A, tol)
        return judge_batch(
            [
                judge_answer(answer, reference.values[i], _MatrixOfBatch(A, i), tol)
                for i, answer in enumerate(self.answers)
            ]
        )


def warm_up(solver: Solver, device: str = "cpu") -> None:
    """Let a solver solve a small problem that is not timed, since libraries load at first use."""
    small = OperatorProblem(lambda: spectral("1/i", _SMALL, device=device))
    run_solver(solver, Target(small), _SMALL_K, _SMALL_TOL, _SMALL_SECONDS)


def run_solver(
    solver: Solver, target: Target, k: int, tol: float, budget_seconds: float
) -> SolveRun:
    """Run a solver, and catch whatever it raises; a warning counts as a flag."""
    for name in solver.requires:
        importlib.import_module(name)
    target.meter.start(budget_seconds)
    target.setup_seconds = 0.0
    answers: list[Answer] = []
    note, unable, complaint = "", False, ""
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        try:
            answers = _solve_all(solver, target, k, tol, budget_seconds)
            _synchronize(answers)
        except UnableError as error:
            note, unable = str(error), True
        except OutOfTimeError:
            note = f"gave up after {budget_seconds:g} s"
        except Exception as error:
            said = (str(error).splitlines() or [""])[0][:_MOST_CHARACTERS]
            note = (
                f"gave up after {budget_seconds:g} s"
                if target.meter.expired
                else f"raised {type(error).__name__}: {said}"
            )
    seconds = time.perf_counter() - began - target.setup_seconds
    for one in caught:
        text = str(one.message)
        if not issubclass(one.category, DeprecationWarning | FutureWarning):
            complaint = complaint or (text if _COMPLAINT.search(text) else "")
    if complaint:
        first = " ".join(complaint.split())[:_MOST_CHARACTERS]
        answers = [
            answer._replace(said_converged=False, note=f"warned: {first}") for answer in answers
        ]
    meter = target.meter
    return SolveRun(
        tuple(answers),
        max(seconds, 0.0),
        target.setup_seconds,
        meter.forward,
        meter.reverse,
        meter.seconds,
        note or (answers[0].note if answers else ""),
        unable,
    )


def _solve_all(
    solver: Solver, target: Target, k: int, tol: float, budget_seconds: float
) -> list[Answer]:
    if len(target.shape) == 2:
        return [solver.solve(target, k, tol, budget_seconds)]
    if solver.takes_batches:
        whole = solver.solve(target, k, tol, budget_seconds)
        return [
            Answer(
                s,
                None if whole.U is None else whole.U[i],
                None if whole.V is None else whole.V[i],
                whole.said_converged,
                whole.note,
            )
            for i, s in enumerate(whole.s)
        ]
    answers = []
    for i in range(target.shape[0]):
        one = Target(target.problem.of(i), target.meter)
        answers.append(solver.solve(one, k, tol, budget_seconds))
        target.setup_seconds += one.setup_seconds
    return answers


class _MatrixOfBatch(LinearOperator):
    """One matrix of a batch, as an operator of its own."""

    def __init__(self, batch: LinearOperator, index: int) -> None:
        super().__init__(batch.shape[1:], batch.dtype, batch.device)
        self._batch = batch.select([index])

    def _matmat(self, V: torch.Tensor) -> torch.Tensor:
        return self._batch.matmat(V)[0]

    def _rmatmat(self, U: torch.Tensor) -> torch.Tensor:
        return self._batch.rmatmat(U)[0]


def _synchronize(answers: list[Answer]) -> None:
    if any(answer.s.device.type == "cuda" for answer in answers):
        torch.cuda.synchronize()


def finite_or_none(value: float | None) -> float | None:
    """Return the number, or None where JSON has none for it."""
    return value if value is not None and math.isfinite(value) else None
