"""How far the next Lanczos block is from orthogonal to V, estimated without reading V.

Exactly, V'F = 0. Rounding leaves a little, and each step multiplies it, most along vectors that
have converged. With T = B'B, and the next block F⁺, the factorisation says

    A'A V = V T + F R B    and    A'A F = [V F] H + F⁺ C,

where H is 0 but for the rows of the last blocks. So, in all other rows,

    V'F⁺ C = T V'F − V'[V F] H + rounding,

where small matrices suffice. While V'F⁺ stays below √eps, B is the projection of A onto the span of
V up to rounding. So a block need be made orthogonal to all of V only where the estimate grows too
large, and then the next one too, since the recurrence starts from two.

Source: Simon, The Lanczos algorithm with partial reorthogonalization (1984).
"""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.svd.kernels.zeros import with_zeros

_EPS = torch.finfo(torch.float64).eps
# Rounding of a step, in units of eps s₁²: so much that estimates are seldom too small.
_ROUNDING = 10.0
# Blocks in succession that are made orthogonal to all of V.
_SUCCESSION = 2


class OrthogonalityLoss:
    """An estimate of V'F for the present block F, and of what it was for the block before.

    Args:
        allowed: Largest entry of V'F that may stay.

    >>> loss = OrthogonalityLoss(1e-9)
    >>> for size in (2, 4):
    ...     loss.renew(size, 2)
    >>> B, H, C = torch.eye(4), torch.ones(4, 2), torch.tensor([[0.1, 0.0], [0.0, 1e-7]])
    >>> B, H, C = B.double(), H.double(), C.double()
    >>> [f"{float(size):.0e}" for size in loss.estimate(B, H, C, 1.0).abs().amax(0)]
    ['3e-14', '3e-08']
    """

    def __init__(self, allowed: float) -> None:
        self._allowed = allowed
        self.forget()

    @property
    def must_renew(self) -> bool:
        """Whether the next block must be made orthogonal to all of V, whatever the estimate."""
        return self._to_renew > 0 or self._allowed <= _EPS

    def forget(self) -> None:
        """Note that V or F has been replaced, so that the estimates no longer apply."""
        self._to_renew = _SUCCESSION
        self._before = self._present = torch.zeros(0, 0, dtype=torch.float64)

    def renew(self, size: int, width: int) -> None:
        """Note that the next block (n, width) is orthogonal to all of V, now (n, size)."""
        self._to_renew = (self._to_renew or _SUCCESSION) - 1
        self._advance(torch.full((size, width), _EPS, dtype=torch.float64))

    def estimate(self, B: Tensor, H: Tensor, C: Tensor, unit: float) -> Tensor:
        """Return the estimate of [V F]'F⁺, (s + w, w).

        Args:
            B: (s, s) without F.
            H: (j, w) last rows of H, in units of `unit`².
            C: (w, w) of full rank, in units of `unit`².
            unit: s₁, about.
        """
        size, width = self._present.shape
        last, others = self._before.shape[-1], size + width - H.shape[0]
        grown = B.mT @ (B @ self._present / unit) / unit - self._present @ H[-width:]
        grown = grown[:others] - self._before[:others] @ H[-width - last : -width]
        grown += grown.sign() * (_ROUNDING * _EPS)
        following = torch.full((size + width, width), _EPS, dtype=torch.float64)
        following[:others] = torch.linalg.solve(C, grown, left=False)
        return following

    def accept(self, estimate: Tensor) -> bool:
        """Go on with the next block and tell so, or tell that its estimate is too large."""
        if not float(estimate.abs().max()) <= self._allowed:
            return False
        self._advance(estimate)
        return True

    def _advance(self, following: Tensor) -> None:
        self._before = with_zeros(self._present, below=len(following) - len(self._present))
        self._present = following
