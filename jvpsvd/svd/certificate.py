"""The evidence that comes with every answer: what was measured, and what could not be certified."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.products import longest_product
from jvpsvd.svd.triplets import Triplets, column_lengths, worst_orthonormality

_MIXTURES = 2
# Rounding in a fresh product of a long combination of vectors, in units of eps · s₁ · √k.
_ROUNDING = 10.0


@dataclass(frozen=True)
class Certificate:
    """What is known about k triplets beyond their residuals.

    Every value has a singular value of the operator within its residual, if `orthonormality` is
    small and `mixture` is no larger than the residuals allow; none is larger than the true value
    of the same index by more than that (Cauchy interlacing). Whether one is *missing* is a
    different question, and `complete` with its `evidence` answers that one.
    """

    orthonormality: float
    """max(|U'U − I|, |V'V − I|), largest entry."""
    mixture: float
    """Length of A(Vω) − U S ω and of its transpose for random ω, |ω| = 1, by fresh products."""
    mixture_allowed: float
    """What the residuals of the solver and rounding explain."""
    fro2: float
    """‖A‖²_F, exact or estimated from random products."""
    fro2_error: float
    """One standard error of `fro2`; 0 where it is exact."""
    energy_share: float
    """Σ s² / ‖A‖²_F: how much of the operator the k triplets hold."""
    complete: bool
    """Whether something was done that would have shown a missing value."""
    evidence: str
    """What that was, in words."""

    @property
    def sound(self) -> bool:
        """Whether fresh products and orthonormality agree with the residuals of the solver."""
        return self.orthonormality < 1e-2 and self.mixture <= self.mixture_allowed

    def __str__(self) -> str:
        share = f"{100 * self.energy_share:.1f} %"
        if self.fro2_error and self.fro2:
            share += f" ± {100 * self.energy_share * self.fro2_error / self.fro2:.1f}"
        return (
            f"{'sound' if self.sound else 'NOT SOUND'}: orthonormal to {self.orthonormality:.0e}, "
            f"fresh products agree to {self.mixture:.0e}; {share} of the energy; "
            f"{'complete' if self.complete else 'not shown complete'}: {self.evidence}"
        )


def certify(A: LinearOperator, triplets: Triplets, seed: int) -> Certificate:
    """Test triplets of A with fresh products of random mixtures of all their vectors.

    A mixture ω gives A(Vω) − U S ω, whose expected squared length is the mean squared residual; so
    two products in each direction check all k triplets at once, independently of the solver.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
    """
    k = triplets.s.shape[0]
    generator = torch.Generator().manual_seed(seed + 1)
    signs = torch.randint(0, 2, (k, _MIXTURES), generator=generator) * 2 - 1
    mixtures = (signs / math.sqrt(k)).to(dtype=A.dtype, device=A.device)
    scaled = triplets.s[:, None] * mixtures
    images = A.matmat(triplets.V @ mixtures)
    preimages = A.rmatmat(triplets.U @ mixtures)
    longest_product(A, images, "forward", "mixtures of all right vectors")
    longest_product(A, preimages, "reverse", "mixtures of all left vectors")
    ahead, back = images - triplets.U @ scaled, preimages - triplets.V @ scaled
    lengths = column_lengths(torch.cat([ahead, back]))
    top = float(triplets.s[0])
    rounding = _ROUNDING * torch.finfo(A.dtype).eps * top * math.sqrt(k)
    # |Σ ω_i r_i| ≤ |r|, in both directions.
    allowed = math.sqrt(2) * float(triplets.residuals.double().norm()) + rounding
    held = float((triplets.s.double() ** 2).sum())
    return Certificate(
        orthonormality=worst_orthonormality(triplets),
        mixture=float(lengths.max()),
        mixture_allowed=allowed,
        fro2=triplets.fro2,
        fro2_error=triplets.fro2_error,
        energy_share=held / triplets.fro2 if triplets.fro2 > 0 else 1.0,
        complete=triplets.complete,
        evidence=triplets.evidence,
    )
