"""Numbers that follow from all singular values, with bounds from residuals and certificate.

With orthonormal U and V and A V = U S + R, the singular values of A differ in each index from those
found by at most ‖R‖₂ ≤ √Σ r², r the residuals, if all were found (Weyl). If only k were, this
bounds the k leading ones from below (interlacing), and √(s² + ε²), with the ε of the certificate,
bounds them from above.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.scaling import row_norms
from jvpsvd.svd.estimate import Estimate

_UNSOUND = "the certificate is not sound, so nothing bounds it; see result.certificate"


@dataclass(frozen=True)
class BoundedValues:
    """The k leading singular values of a matrix, with what bounds the true ones."""

    s: Tensor
    """(k,) float64, descending."""
    residuals: Tensor
    """(k,) float64."""
    upper: Tensor
    """(k,) `SVDResult.upper_bounds`, float64."""
    shorter: int
    """min(m, n): how many values the matrix has."""
    sound: bool
    """Whether residuals can be trusted."""

    @property
    def low(self) -> Tensor:
        """(k,) The true values are at least these."""
        return (self.s - self._error).clamp_min(0)

    @property
    def high(self) -> Tensor:
        """(k,) The true values are at most these, as far as ε is not estimated too small."""
        return torch.maximum(self.s, self.upper) + self._error

    def condition_number(self) -> Estimate:
        """Return σ₁ over the smallest value."""
        s, missing = self.s, self.shorter - len(self.s)
        if not self.sound or s[0] == 0:
            basis = "all values are 0" if self.sound else _UNSOUND
            return Estimate(math.inf, 1.0, math.inf, basis=basis)
        low = max(1.0, float(self.low[0] / self.high[-1]))
        if missing:
            basis = f'{missing} smaller values are unknown; k="all" finds them'
            return Estimate(low, low, math.inf, basis=basis)
        if self.low[-1] == 0:
            basis = f"the smallest value, {float(s[-1]):.1e}, lies below its error and may be 0"
            return Estimate(low, low, math.inf, basis=basis)
        high = float(self.high[0] / self.low[-1])
        return Estimate(float(s[0] / s[-1]), low, high, basis=self._all)

    def log_volume(self) -> Estimate:
        """Return Σ log σ over all values.

        Raises:
            ArgumentError: If some were not computed.
        """
        if len(self.s) < self.shorter:
            raise ArgumentError(
                f"log_volume needs all {self.shorter} values, and here are {len(self.s)}; give "
                'k="all", or take result.s.log().sum() for these'
            )
        if not self.sound:
            return Estimate(math.nan, -math.inf, math.inf, basis=_UNSOUND)
        high = float(self.high.log().sum())
        below = int((self.low == 0).sum())
        if below:
            lie = "lies below its" if below == 1 else "lie below their"
            words = f"{below} of {self.shorter} values {lie} error and may be 0"
            return Estimate(high, -math.inf, high, basis=words)
        low = float(self.low.log().sum())
        return Estimate(float(self.s.log().sum()), low, high, basis=self._all)

    def rank(self, threshold: float) -> Estimate:
        """Return the number of values above a threshold."""
        count = int((self.s > threshold).sum())
        if not self.sound:
            return Estimate(count, 0, self.shorter, basis=_UNSOUND)
        low, high = (int((bound > threshold).sum()) for bound in (self.low, self.high))
        basis = f"values above {threshold:.3g}"
        missing = self.shorter - len(self.s)
        if missing and high == len(self.s):
            return Estimate(
                count, low, self.shorter, basis=f"{basis}; {missing} smaller values are unknown"
            )
        return Estimate(count, low, high, basis=f"{basis}, by residuals")

    @property
    def _error(self) -> float:
        return float(row_norms(self.residuals))

    @property
    def _all(self) -> str:
        if self.shorter == 1:
            return "the only value and its residual"
        return f"all {self.shorter} values and their residuals"
