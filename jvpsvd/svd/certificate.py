"""The evidence that comes with every answer: what was measured, and what could not be certified."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.products import longest_product
from jvpsvd.svd.rounding import change_by_rounding
from jvpsvd.svd.triplets import (
    COLUMNS_AT_ONCE,
    Triplets,
    column_lengths,
    residual_lengths,
    worst_orthonormality,
)

_MIXTURES = 2
# Rounding in a fresh product of a long combination of vectors, in units of
# eps · s₁ · √(k + 15): at k = 1 a vector is itself a combination of many.
_ROUNDING, _TERMS = 10.0, 15
_NOT_ORTHONORMAL = 1e-2


@dataclass(frozen=True)
class Certificate:
    """What is known about k triplets beyond their residuals.

    Every value has a singular value of the operator within its residual, if `orthonormality` is
    small and `mixture` is no larger than the residuals allow; none is larger than the true value
    of the same index by more than that (Cauchy interlacing). Whether one is *missing* is a
    different question, and `complete` with its `evidence` answers that one, to the tolerance: a
    value that lies closer to one found may be missed.
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
    """Σ s² / ‖A‖²_F: how much of the operator the k triplets hold; over 1 where the estimate of
    ‖A‖²_F, which is right on average, comes out too small: that says about all."""
    complete: bool
    """Whether something was done that would have shown a missing value."""
    evidence: str
    """What that was, in words."""
    epsilon: float
    """‖A − A V V'‖₂ for the bases V of the solver: 0 if they span the space, else estimated (from
    below) by the random and Krylov columns that came last; NaN if nothing was.

    σᵢ(A) ≤ √(σᵢ² + ε²) bounds every value from above: see `SVDResult.upper_bounds`."""

    defined_to: float | None
    """How well A itself is defined in its precision: ‖(Ã − A) V‖_F / σ₁, the most over a few Ã at
    points moved by rounding (`LinearOperator.perturbed_by_rounding`); None where A has no point.

    A residual below it says that the triplets are right for A as it was computed, and not more:
    other threads or another device compute an A that differs by about so much."""

    @property
    def sound(self) -> bool:
        """Whether fresh products and orthonormality agree with the residuals of the solver."""
        near = self.orthonormality < _NOT_ORTHONORMAL
        return near and self.mixture <= self.mixture_allowed

    def __str__(self) -> str:
        share = f"{100 * self.energy_share:.1f} %"
        if self.energy_share >= 1.0005:  # of an estimate of ‖A‖²_F that is too small
            share = "about 100 %"
        elif 0 < self.fro2_error < math.inf and self.fro2:
            share += f" ± {100 * self.energy_share * self.fro2_error / self.fro2:.1f}"
        defined = ""
        if self.defined_to == 0:
            defined = "; rounding of the point did not move J"
        elif self.defined_to == math.inf:
            defined = "; rounding of the point moves J, which is 0 here"
        elif self.defined_to is not None:
            defined = f"; J itself is defined to {self.defined_to:.0e} s1 here"
        return (
            f"{'sound' if self.sound else 'NOT SOUND'}: orthonormal to {self.orthonormality:.0e}, "
            f"fresh products agree to {self.mixture:.0e}; {share} of the energy; "
            f"{'complete' if self.complete else 'not shown complete'}: {self.evidence}{defined}"
        )


def certify(A: LinearOperator, triplets: Triplets, seed: int) -> tuple[Certificate, ...]:
    """Test triplets of A with fresh products of random mixtures of all their vectors.

    A mixture ω gives A(Vω) − U S ω, whose expected squared length is the mean squared residual; so
    two products in each direction check all k triplets at once, independently of the solver. Where
    only one side V was kept, A'(A V ω) − V S² ω is tested, in units of σ₁.

    Returns one certificate for each matrix of a batch, or one.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
    """
    if triplets.V is None:
        return certify(A.T, triplets.transposed(), seed)
    U, V, s = triplets.U, triplets.V, triplets.s
    k = s.shape[-1]
    generator = torch.Generator().manual_seed(seed + 1)
    signs = torch.randint(0, 2, (k, _MIXTURES), generator=generator) * 2 - 1
    mixtures = (signs / math.sqrt(k)).to(dtype=A.dtype, device=A.device)
    scaled = s[..., None] * mixtures
    combinations = V @ mixtures
    images = A.matmat(combinations)
    longest_product(A, images, "forward", "mixtures of all right vectors")
    if U is None:
        ahead = torch.zeros_like(images)
        top = torch.where(s[..., :1, None] > 0, s[..., :1, None], 1.0)
        preimages = A.rmatmat(images / top)
        back = preimages - V @ (s[..., None] / top * scaled)
    else:
        ahead = images - U @ scaled
        preimages = A.rmatmat(U @ mixtures)
        back = preimages - V @ scaled
    longest_product(A, preimages, "reverse", "mixtures of all left vectors")
    lengths = torch.maximum(column_lengths(ahead), column_lengths(back)).amax(-1)
    rounding = _ROUNDING * torch.finfo(A.dtype).eps * s[..., 0].double() * math.sqrt(k + _TERMS)
    # |Σ ω_i r_i| ≤ |r|, in each direction; with one side alone both add up.
    sides = math.sqrt(2) if U is not None else 2.0
    allowed = sides * torch.linalg.vector_norm(triplets.residuals.double(), dim=-1) + rounding
    held = (s.double() ** 2).sum(-1)
    orthonormal = worst_orthonormality(triplets)
    change = change_by_rounding(A, combinations, images, k, seed)
    defined = torch.where(change == 0, change, change / s[..., 0].double().reshape(-1).cpu())
    each = (orthonormal, lengths, allowed, held, defined)
    columns_of = [x.reshape(-1).tolist() for x in each]
    return tuple(
        Certificate(
            orthonormality=orthonormality,
            mixture=mixture,
            mixture_allowed=limit,
            fro2=known.fro2,
            fro2_error=known.fro2_error,
            energy_share=1.0 if known.fro2 == 0 else energy / known.fro2,
            complete=known.complete,
            evidence=known.evidence,
            epsilon=known.epsilon,
            defined_to=None if math.isnan(defined_to) else defined_to,
        )
        for orthonormality, mixture, limit, energy, defined_to, known in zip(
            *columns_of, triplets.known, strict=True
        )
    )


def with_fresh_residuals(
    A: LinearOperator, triplets: Triplets, certificates: tuple[Certificate, ...], tol: float
) -> Triplets:
    """Return the triplets with residuals by fresh products, k each way, where these differ.

    A solver sees the rounding of its own products only, and the exact one that of its matrix. Where
    f loses digits (layer normalisation of x far from zero loses |x|) a product of another vector is
    off by more. Residuals that show this make such an answer sound again. It is left as it is if
    fresh products are off by more than the tolerance, or vectors are not orthonormal: then it is
    not rounding, and what the solver says of missing values does not hold either.

    Args:
        A: The operator.
        triplets: What a solver found.
        certificates: What `certify` says of them.
        tol: The tolerance, in units of σ₁.
    """
    scales = triplets.s[..., :1].reshape(-1).tolist()
    unsound = [known for known in certificates if not known.sound]
    if not unsound or any(
        known.orthonormality >= _NOT_ORTHONORMAL or not known.mixture <= tol * scale
        for known, scale in zip(certificates, scales, strict=True)
        if not known.sound
    ):
        return triplets
    if triplets.V is None:
        swapped = with_fresh_residuals(A.T, triplets.transposed(), certificates, tol)
        return swapped.transposed()
    U, V, s = triplets.U, triplets.V, triplets.s
    if U is None:
        fresh = _one_sided_residuals(A, V, s)
    else:
        fresh = residual_lengths(
            s, U, V, lambda part: A.matmat(V[..., part]), lambda part: A.rmatmat(U[..., part])
        )
    # A mixture samples the rounding once more; no residual is said to be less.
    least = s.new_tensor([known.mixture for known in certificates]).reshape(*A.batch, 1)
    measured = torch.maximum(torch.maximum(fresh, triplets.residuals), least)
    changed = torch.tensor([not known.sound for known in certificates], device=s.device)
    residuals = torch.where(changed.reshape(*A.batch, 1), measured, triplets.residuals)
    return replace(triplets, residuals=residuals)


def _one_sided_residuals(A: LinearOperator, V: Tensor, s: Tensor) -> Tensor:
    """Return the residuals of s with v and u = A v / |A v|, a few columns at a time."""
    residuals = torch.empty_like(s)
    # Below this the direction of A v is rounding; a residual that is too large is no harm.
    least = torch.finfo(s.dtype).eps ** 0.5 * s[..., :1].double()
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        v, values = V[..., part], s[..., part].double()
        images = A.matmat(v)
        lengths = column_lengths(images)
        divisor = torch.maximum(lengths, torch.where(least > 0, least, 1.0))
        u = images / divisor.to(s.dtype)[..., None, :]
        back = A.rmatmat(u) - v * (values * lengths / divisor).to(s.dtype)[..., None, :]
        found = torch.maximum(column_lengths(back), (lengths - values).abs())
        residuals[..., part] = found.to(s.dtype)
    return residuals
