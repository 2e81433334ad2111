"""When the triplets of one matrix may be believed: residuals, and random columns that had a chance.

A Krylov space holds no more copies of a repeated value than its block is wide, and nothing of an
invariant subspace that its start did not touch. So random columns, orthogonal to everything, join
it before the end: if something is missing, it rises among the leading values, with a residual that
says it has not converged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

# Copies of one value differ by rounding: in units of eps · s₁.
_ROUNDING = 10.0
# Residuals, relative to s₁, down to which crowded values are first sharpened.
_TELLING = 1e-5
# Random columns join when the worst residual is this near the goal.
_NEAR = 10.0
# Residual, relative to s₁, below which values that are not told apart are taken for copies.
_SHARP = 1e-9
# Blocks of copies beyond which they were not met by the start block and rounding alone.
_REFILLED = 4


class Verdict(Enum):
    """What one look at a matrix asks for."""

    SEEK = "residuals are too large"
    ADD_FEW = "a few random columns should join"
    ADD_BLOCK = "a block of random columns should join"
    WAIT = "random columns need more steps"
    DONE = "converged, and random columns raised no value"


@dataclass(frozen=True)
class Vigil:
    """What the triplets of one matrix still have to show.

    Args:
        goal: Residual relative to s₁ that counts as converged.
        aim: Residual relative to s₁ to reach; below the goal where values are crowded.
        since: Step at which the random columns joined; None: they have not.
        until: Step up to which they are to be expanded.
        before: Values before a block of them joined, (k,); None if only a few did.
    """

    goal: float
    aim: float
    since: int = 0
    until: int | None = None
    before: Tensor | None = None

    def joined(self, steps: int, more: int, before: Tensor | None = None) -> Vigil:
        """Return the vigil after random columns have joined, for `more` steps from now."""
        return Vigil(self.goal, self.aim, steps, steps + more, before)

    def look(
        self, s: Tensor, estimates: Tensor, steps: int, crowded: bool
    ) -> tuple[Vigil, Verdict]:
        """Judge values (k,) and predicted residuals (k,) after so many steps.

        A block of b random columns meets at most b copies of a repeated value. So where b values
        look alike, and others follow (crowded), b columns join and are given as many steps as the
        start block had; elsewhere few columns and steps will do.
        """
        allowed = self.goal * float(s[0])
        worst = float(estimates.max())
        if self.before is not None and self.until is not None:
            if worst > allowed or bool((s - self.before > allowed).any()):
                return Vigil(self.goal, self.aim), Verdict.SEEK
            return self, Verdict.WAIT if steps < self.until else Verdict.DONE
        if worst > self.aim * float(s[0]):
            near = worst <= _NEAR * self.aim * float(s[0]) and self.until is None
            return self, Verdict.ADD_FEW if near else Verdict.SEEK
        if crowded:
            if self.aim > _TELLING:
                # Sharper residuals tell crowded values apart for less than a long vigil costs.
                return Vigil(self.goal, self.aim / 10, self.since, self.until), Verdict.SEEK
            return self, Verdict.ADD_BLOCK
        if self.until is None:
            return self, Verdict.ADD_FEW
        return self, Verdict.WAIT if steps < self.until else Verdict.DONE


def trusted(s: Tensor, estimates: Tensor, tol: float, copies: int, dtype: torch.dtype) -> int:
    """Count the leading values that are right to tol · s₁ even if values are missing.

    Copies of one value are found within their residuals of it. So the first b values in a row that
    residuals and rounding do not tell apart may stand for more; these would displace all values
    more than a tolerance below the first of them.

    Args:
        s: (k,) values, descending.
        estimates: (k,) their residuals.
        tol: Relative to s₁.
        copies: b, how many copies of one value the bases can hold.
        dtype: Of the products, whose rounding spreads copies.

    >>> s, exact = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5]), torch.zeros(5)
    >>> trusted(s, exact, 1e-5, 3, torch.float64), trusted(s, exact, 1e-5, 4, torch.float64)
    (4, 5)
    """
    crowd = _first_crowd(s, estimates, copies, dtype)
    return s.shape[0] if crowd is None else _level(s, crowd, tol)


def too_narrow(s: Tensor, estimates: Tensor, tol: float, copies: int, dtype: torch.dtype) -> bool:
    """Tell whether a value fills the block for certain, so that copies may be missing already.

    That is a crowd, as in `trusted`, of values known to rounding, or to 1e-9 s₁. Where many more
    than b are alike, blocks have lost their rank and were refilled at random: no wider one is
    needed.

    >>> s, exact = torch.tensor([3.0, 1.0, 1.0, 1.0, 0.5]), torch.zeros(5)
    >>> [too_narrow(s, exact, 1e-5, copies, torch.float64) for copies in (1, 2, 3, 4)]
    [True, True, True, False]
    """
    alike = torch.maximum(_rounding(s, dtype), _SHARP * s[0])
    sharp = torch.where(estimates <= alike, estimates, -torch.inf)
    crowd = _first_crowd(s, sharp, copies, dtype)
    if crowd is None or _level(s, crowd, tol) == s.shape[0]:
        return False
    return int(((s - s[crowd]).abs() <= 3 * alike).sum()) <= _REFILLED * copies


def _rounding(s: Tensor, dtype: torch.dtype) -> Tensor:
    return _ROUNDING * torch.finfo(dtype).eps * s[0]


def _first_crowd(s: Tensor, estimates: Tensor, copies: int, dtype: torch.dtype) -> int | None:
    """Return where the first row of b values begins that are not told apart, if there is one."""
    last = copies - 1
    if s.shape[0] <= last:
        return None
    first, end = s.shape[0] - last, s.shape[0]
    reach = estimates[:first] + estimates[last:end] + _rounding(s, dtype)
    crowds = (s[:first] - s[last:end] <= reach).nonzero()
    return int(crowds[0]) if len(crowds) else None


def _level(s: Tensor, crowd: int, tol: float) -> int:
    """Count the values that more copies of the crowd's would not displace by a tolerance."""
    return int((s >= s[crowd] - tol * s[0]).sum())
