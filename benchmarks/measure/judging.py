"""Whether an answer is right, and whether its solver would have let its user know.

Errors are true ones: values are compared with known, dense or certified ones, and the residuals of
triplets are measured by products that the solver did not take. Both are relative to s₁ and
compared with the required residual, tol, or with the rounding of the products' dtype where that is
larger.

    right    values within ALLOWED · tol of the true ones, residuals too, and no complaint
    unsure   the same, but the solver said that it had not converged
    honest   wrong, and the solver said so: it raised, warned, flagged, returned NaN or fewer
             values than were wanted, or gave up at the budget
    silent   wrong, and its user could not know
    unable   the solver refuses this kind of task (only Jacobians, only square, no such dtype)
    absent   its package is not installed here, or needs a GPU and there is none
    skipped  left out by the part, for the reason in the note
    broken   the process died, which nobody takes for an answer
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from benchmarks.solvers.protocol import Answer
from jvpsvd import LinearOperator

Outcome = Literal["right", "unsure", "honest", "silent", "unable", "absent", "skipped", "broken"]
REACHED = ("right", "unsure")
"""Outcomes of an answer that is as accurate as required."""
ALLOWED = 2.0
"""Times tol, up to which an answer is right: a residual measured anew has other rounding."""
_ROUNDING = 100.0
_COLUMNS = 32


@dataclass(frozen=True)
class Judgement:
    """An outcome and the errors that led to it."""

    outcome: Outcome
    value_error: float | None = None
    """Worst |s − true s|, over the true s₁."""
    excess: float | None = None
    """The most that a value exceeds the true value of its index, over the true s₁."""
    residual: float | None = None
    """Worst max(|A v − s u|, |A' u − s v|), over the true s₁."""
    orthonormality: float | None = None
    """The largest entry of |U'U − I| and |V'V − I|, which shows a triplet given twice."""


def allowed(tol: float, dtype: torch.dtype) -> float:
    """Return the error, relative to s₁, up to which an answer counts as right.

    >>> allowed(1e-4, torch.float32), allowed(1e-12, torch.float32) > 1e-6
    (0.0002, True)
    """
    return max(ALLOWED * tol, _ROUNDING * torch.finfo(dtype).eps)


def judge_answer(answer: Answer, truth: Tensor, A: LinearOperator, tol: float) -> Judgement:
    """Judge k triplets of one matrix.

    Args:
        answer: What the solver returned, in any order.
        truth: (k,) true values, descending, float64.
        A: The operator whose products test the triplets.
        tol: The required residual, relative to s₁.
    """
    limit = allowed(tol, A.dtype)
    top = float(truth[0]) or 1.0
    given = answer.s.detach().double().cpu()
    count = min(len(given), len(truth))
    if not bool(torch.isfinite(given).all()):
        return Judgement("honest")  # nobody takes NaN for an answer
    if len(given) < len(truth):
        return Judgement("honest")  # the user sees that values are missing
    order = given.argsort(descending=True)
    off = (given[order][:count] - truth[:count]) / top
    value_error, excess = float(off.abs().max()), float(off.max())
    residual = orthonormality = None
    right = value_error <= limit
    if answer.U is not None and answer.V is not None:
        U, V = (side[:, order.to(side.device)][:, :count] for side in (answer.U, answer.V))
        residual = true_residual(A, given[order][:count], U, V) / top
        orthonormality = max(_orthonormality(side) for side in _at_values(U, V, given, top))
        right = right and residual <= limit and orthonormality <= 1e-2
    said = answer.said_converged
    outcome: Outcome = ("right" if said else "unsure") if right else "silent" if said else "honest"
    return Judgement(outcome, value_error, excess, residual, orthonormality)


def true_residual(A: LinearOperator, s: Tensor, U: Tensor, V: Tensor) -> float:
    """Return the worst of max(|A v − s u|, |A' u − s v|); infinite if anything is not finite."""
    worst = 0.0
    for start in range(0, len(s), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        u, v = (side[:, part].to(dtype=A.dtype, device=A.device) for side in (U, V))
        values = s[part].to(A.device)
        forward = A.matmat(v).double() - values * u.double()
        adjoint = A.rmatmat(u).double() - values * v.double()
        for difference in (forward, adjoint):
            norm = float(torch.linalg.vector_norm(difference, dim=0).max())
            worst = max(worst, norm if math.isfinite(norm) else math.inf)
    return worst


def judge_batch(judgements: list[Judgement]) -> Judgement:
    """Return the judgement of a batch: the worst outcome, the largest errors."""
    ranked: list[Outcome] = ["right", "unsure", "honest", "silent"]

    def largest(values: list[float | None]) -> float | None:
        given = [value for value in values if value is not None]
        return max(given) if given else None

    return Judgement(
        max((one.outcome for one in judgements), key=ranked.index),
        largest([one.value_error for one in judgements]),
        largest([one.excess for one in judgements]),
        largest([one.residual for one in judgements]),
        largest([one.orthonormality for one in judgements]),
    )


def _at_values(U: Tensor, V: Tensor, s: Tensor, top: float) -> tuple[Tensor, Tensor]:
    # For s = 0, any u with A' u = 0 will do, and solvers return zeros or leave it out.
    nonzero = (s.sort(descending=True).values[: U.shape[1]] > 1e-6 * top).to(U.device)
    return U[:, nonzero], V[:, nonzero.to(V.device)]


def _orthonormality(side: Tensor) -> float:
    if side.shape[1] == 0:
        return 0.0
    wide = side.double()
    found = float((wide.mT @ wide - torch.eye(side.shape[1]).to(wide)).abs().max())
    return found if math.isfinite(found) else math.inf
