"""What `svds` returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import Products
from jvpsvd.svd.certificate import Certificate
from jvpsvd.svd.plan import Plan
from jvpsvd.svd.triplets import Triplets


@dataclass(frozen=True)
class SVDResult:
    """The k leading singular triplets J ≈ U diag(s) Vh, and what vouches for them."""

    U: Tensor | None
    """(m, k) left vectors; None with vectors=False."""
    s: Tensor
    """(k,) singular values, descending."""
    Vh: Tensor | None
    """(k, n) right vectors as rows; None with vectors=False."""
    residuals: Tensor
    """(k,) measured max(|J v − s u|, |J' u − s v|), in the units of s."""
    converged: Tensor
    """(k,) bool: residual ≤ tol · s[0], certificate sound, no missing value can displace it."""
    products: Products
    """Forward and reverse products spent, the certificate's own included."""
    method: str
    """The method that ran."""
    seconds: float
    """Wall time."""
    certificate: Certificate
    """Orthonormality, fresh products, energy, completeness."""
    plan: Plan
    """The prediction, to hold against `products` and `seconds`."""
    tol: float
    """The tolerance asked for."""

    def dimension(self, threshold: float = 1.0) -> int:
        """Return the number of singular values ≥ threshold (Mototake & Ikegami, section 6).

        If it equals k, the true count may be larger.
        """
        return int((self.s >= threshold).sum())

    def __str__(self) -> str:
        k = self.s.shape[0]
        done = int(self.converged.sum())
        return (
            f"{done} of {k} triplets converged to {self.tol:.0e} s1 ({self.method}, "
            f"{self.products.forward} + {self.products.reverse} products, {self.seconds:.1f} s); "
            f"s from {float(self.s[0]):.4g} to {float(self.s[-1]):.4g}, worst residual "
            f"{float(self.residuals.max()):.1e}; {self.certificate}"
        )

    def __repr__(self) -> str:
        return f"<SVDResult: {self}>"


def converged_mask(triplets: Triplets, tol: float, sound: bool) -> Tensor:
    """Return which triplets meet the tolerance and cannot be displaced by a missing value.

    None does when the certificate is not sound.
    """
    if not sound:
        return torch.zeros_like(triplets.residuals, dtype=torch.bool)
    index = torch.arange(triplets.s.shape[0], device=triplets.s.device)
    return (triplets.residuals <= tol * triplets.s[0]) & (index < triplets.trusted)
