"""The certificate of a result: what was measured about its triplets and about missing ones."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.norms import column_norms, one_sided_residual_norms, residual_norms
from jvpsvd.svd.kernels.random_numbers import Seeds, first_seed, seeded_generator
from jvpsvd.svd.product_checks import largest_product_norm
from jvpsvd.svd.rounding import change_by_rounding
from jvpsvd.svd.triplets import Evidence, Triplets, worst_orthonormality

# What `Certificate.sound` decides by; all five are guesses. So many random combinations are tested
# in each direction: the defect of one may be small by coincidence, and each costs two products.
_COMBINATIONS = 2
# Rounding that a fresh product of a combination of k vectors may show, in units of eps · s₁ · √(k +
# 15). The 15 is there because even one vector is a combination of many basis columns.
_ROUNDING, _TERMS = 10.0, 15
# Fresh products may exceed what the residuals prove by this factor. Of one triplet both are the
# same number, and the products of an operator that computes in less than its dtype round by more.
_SLACK = math.sqrt(2)
# Residuals say nothing of vectors that are this far from orthonormal.
_NOT_ORTHONORMAL = 1e-2


@dataclass(frozen=True)
class Certificate(Evidence):
    """The evidence of the solver, and what fresh products say about its triplets.

    Suppose that `orthonormality` is small and `combination_residual` is at most
    `combination_allowed`. Then every value has a singular value of the operator within its
    residual, and no value exceeds the true value of the same index by more than its residual
    (Cauchy interlacing). Whether a value is *missing* is a different question: `complete` and
    `evidence` answer it, up to the tolerance. A missing value that lies within the tolerance of a
    found one may stay unseen.

    Attributes:
        fro2: ‖A‖²_F, exact or estimated without bias.
        fro2_error: One standard error of `fro2`; 0 where it is exact.
        complete: Whether the solver took steps that would have shown a missing value.
        evidence: Those steps, in words; or why there is no evidence.
        guaranteed: How many leading triplets no missing value can displace; all k if complete.
        epsilon: ‖A − A V V'‖₂ for the solver's basis V, estimated from below; NaN if there is no
            estimate. See `SVDResult.upper_bounds`.
        orthonormality: max(|U'U − I|, |V'V − I|), largest entry.
        combination_residual: Norm of A(Vω) − U S ω and of its transpose for random ω, |ω| = 1, by
            fresh products.
        combination_allowed: The largest `combination_residual` that the solver's residuals and
            rounding explain.
        energy_share: Σ s² / ‖A‖²_F: how much of the operator the k triplets hold. ‖A‖²_F may be an
            unbiased estimate; where it comes out too small, the share exceeds 1 and means "about
            all". 1.0 where A = 0, which leaves nothing out.
        defined_to: How well A itself is defined in its precision: the largest ‖(Ã − A) V‖_F / σ₁
            over a few operators Ã at points moved by rounding
            (`LinearOperator.perturbed_by_rounding`). None where A has no point, or a second point
            does not fit into memory. A residual below it says only that the triplets are right for
            A as it was computed here. With other threads or on another device, the computed A
            differs by about this much. Where f casts to a lower precision inside, rounding is that
            of the lower one.
    """

    orthonormality: float
    combination_residual: float
    combination_allowed: float
    energy_share: float
    defined_to: float | None

    @property
    def sound(self) -> bool:
        """Whether fresh products and orthonormality agree with the residuals of the solver."""
        orthonormal = self.orthonormality < _NOT_ORTHONORMAL
        return orthonormal and self.combination_residual <= self.combination_allowed

    def energy_in_words(self) -> str:
        """Return `energy_share` in percent, with its standard error where it is an estimate."""
        if self.energy_share >= 1.0005:  # the estimate of ‖A‖²_F is too small
            return "about 100 %"
        share = f"{100 * self.energy_share:.1f} %"
        if 0 < self.fro2_error < math.inf and self.fro2:
            share += f" ± {100 * self.energy_share * self.fro2_error / self.fro2:.1f}"
        return share

    def defined_in_words(self) -> str:
        """Return `defined_to` in words; "" where it was not measured."""
        if self.defined_to is None:
            return ""
        if self.defined_to == 0:
            return "rounding of the point did not move J"
        if self.defined_to == math.inf:
            return "rounding of the point moves J, which is 0 here"
        return f"J itself is defined to {self.defined_to:.0e} s1 here"

    def __str__(self) -> str:
        defined = self.defined_in_words()
        return (
            f"{'sound' if self.sound else 'NOT SOUND'}: orthonormal to {self.orthonormality:.0e}, "
            f"fresh products agree to {self.combination_residual:.0e}; "
            f"{self.energy_in_words()} of the energy; "
            f"{'complete' if self.complete else 'not shown complete'}: "
            f"{self.evidence.removeprefix('none: ')}"
            f"{'; ' if defined else ''}{defined}"
        )


def certify(A: LinearOperator, triplets: Triplets, seed: Seeds) -> tuple[Certificate, ...]:
    """Test triplets of A by fresh products with random combinations of their vectors.

    A random ω gives A(Vω) − U S ω, whose expected squared norm is the mean squared residual. So two
    products in each direction check all k triplets at once, independently of the solver. Where only
    V was kept, A'(A V ω) − V S² ω is tested instead, divided by σ₁.

    The result has one certificate for each matrix of a batch, or a single one.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.
    """
    if triplets.V is None:
        return certify(A.T, triplets.transposed(), seed)
    U, V, s = triplets.U, triplets.V, triplets.s
    k = s.shape[-1]
    signs = _draw_signs(k, seed)
    weights = (signs / math.sqrt(k)).to(dtype=A.dtype, device=A.device)
    scaled = s[..., None] * weights
    combinations = V @ weights
    images = A.matmat(combinations)
    largest_product_norm(A, images, "forward", "combinations of all right vectors")
    if U is None:
        forward = torch.zeros_like(images)
        top = torch.where(s[..., :1, None] > 0, s[..., :1, None], 1.0)
        adjoint_products = A.rmatmat(images / top)
        adjoint = adjoint_products - V @ (s[..., None] / top * scaled)
    else:
        forward = images - U @ scaled
        adjoint_products = A.rmatmat(U @ weights)
        adjoint = adjoint_products - V @ scaled
    largest_product_norm(A, adjoint_products, "reverse", "combinations of all left vectors")
    norms = torch.maximum(column_norms(forward), column_norms(adjoint)).amax(-1)
    rounding = _ROUNDING * torch.finfo(A.dtype).eps * s[..., 0].double() * math.sqrt(k + _TERMS)
    # |Σ ω_i r_i| ≤ |r| in each direction, since |ω| = 1 and a residual is the larger one of both.
    # With one side alone, the two directions add up.
    explained = _SLACK if U is not None else 2.0
    allowed = explained * torch.linalg.vector_norm(triplets.residuals.double(), dim=-1) + rounding
    held = (s.double() ** 2).sum(-1)
    change = change_by_rounding(A, combinations, images, k, first_seed(seed))
    defined = torch.where(change == 0, change, change / s[..., 0].double().reshape(-1).cpu())
    if A.precision != A.dtype:  # another machine's products differ by this much, too
        defined = defined.clamp(min=torch.finfo(A.precision).eps)
    figures = (worst_orthonormality(triplets), norms, allowed, held, defined)
    rows = zip(*(figure.reshape(-1).tolist() for figure in figures), strict=True)
    return tuple(
        Certificate(
            **asdict(evidence),
            orthonormality=orthonormality,
            combination_residual=norm,
            combination_allowed=allowance,
            energy_share=1.0 if evidence.fro2 == 0 else energy / evidence.fro2,
            defined_to=None if math.isnan(moved) else moved,
        )
        for (orthonormality, norm, allowance, energy, moved), evidence in zip(
            rows, triplets.evidence, strict=True
        )
    )


def _draw_signs(k: int, seed: Seeds) -> Tensor:
    """Return (k, combinations) random signs; (B, k, combinations) where matrices have seeds."""
    if not isinstance(seed, int):
        return torch.stack([_draw_signs(k, one) for one in seed])
    generator = seeded_generator(seed + 1)
    return torch.randint(0, 2, (k, _COMBINATIONS), generator=generator) * 2 - 1


def converged_mask(triplets: Triplets, tol: float, certificates: tuple[Certificate, ...]) -> Tensor:
    """Return which triplets meet the tolerance and cannot be displaced by a missing value.

    If the certificate of a matrix is not sound, none of its triplets does.
    """
    s = triplets.s
    index = torch.arange(s.shape[-1], device=s.device)
    counts = [one.guaranteed if one.sound else 0 for one in certificates]
    guaranteed = torch.tensor(counts, device=s.device).reshape(*s.shape[:-1], 1)
    return (triplets.residuals <= tol * s[..., :1]) & (index < guaranteed)


def last_triplets(
    triplets: Triplets, certificates: tuple[Certificate, ...], count: int
) -> tuple[Triplets, tuple[Certificate, ...]]:
    """Return the last of all triplets, with certificates that say what share these hold."""
    start = triplets.s.shape[-1] - count
    part = slice(start, None)
    U, V = (None if one is None else one[..., part].clone() for one in (triplets.U, triplets.V))
    s, residuals = triplets.s[..., part].clone(), triplets.residuals[..., part].clone()
    restricted = restrict_certificates(certificates, s, start)
    return replace(triplets, s=s, residuals=residuals, U=U, V=V), restricted


def restrict_certificates(
    certificates: tuple[Certificate, ...], s: Tensor, start: int
) -> tuple[Certificate, ...]:
    """Return what certificates of all triplets say about some that follow each other.

    How many are guaranteed and what share they hold are those of the part. Everything else was
    measured with all triplets together and stays: it bounds the part's (`orthonormality`,
    `defined_to`, `epsilon`), or cannot be had for a part without products
    (`combination_residual`, and so `sound`).

    Args:
        certificates: One for each matrix.
        s: (k,) values of the part, or (B, k).
        start: Index of the first of them among all.
    """
    k = s.shape[-1]
    held = (s.double() ** 2).sum(-1).reshape(-1).tolist()
    return tuple(
        replace(
            one,
            energy_share=energy / one.fro2 if one.fro2 else 1.0,
            guaranteed=min(max(one.guaranteed - start, 0), k),
        )
        for one, energy in zip(certificates, held, strict=True)
    )


def with_fresh_residuals(
    A: LinearOperator, triplets: Triplets, certificates: tuple[Certificate, ...], tol: float
) -> Triplets:
    """Return the triplets with residuals measured anew, where the certificate is not sound.

    A solver sees only the rounding of its own products. Where f loses digits (layer normalisation
    of x far from zero, for example), products with other vectors round more, and the certificate
    finds the residuals too small. k fresh products in each direction measure residuals that include
    this rounding; the result is then sound again. The triplets are returned unchanged if fresh
    products differ by more than the tolerance, or if vectors are not orthonormal: rounding does not
    explain that, and the solver's statement about missing values does not hold either.

    Args:
        A: The operator.
        triplets: What a solver found.
        certificates: What `certify` returned for them.
        tol: The tolerance, in units of σ₁.
    """
    scales = triplets.s[..., :1].reshape(-1).tolist()
    each = zip(certificates, scales, strict=True)
    unsound = [(one, scale) for one, scale in each if not one.sound]
    if not unsound or any(
        one.orthonormality >= _NOT_ORTHONORMAL or not one.combination_residual <= tol * scale
        for one, scale in unsound
    ):
        return triplets
    if triplets.V is None:
        swapped = with_fresh_residuals(A.T, triplets.transposed(), certificates, tol)
        return swapped.transposed()
    U, V, s = triplets.U, triplets.V, triplets.s
    if U is None:
        fresh = one_sided_residual_norms(s, V, A.matmat, A.rmatmat)
    else:
        fresh = residual_norms(
            s, U, V, lambda part: A.matmat(V[..., part]), lambda part: A.rmatmat(U[..., part])
        )
    # The combinations sampled the rounding too, so no residual is reported below theirs.
    least = s.new_tensor([one.combination_residual for one in certificates])
    least = least.reshape(*A.batch, 1)
    measured = torch.maximum(torch.maximum(fresh, triplets.residuals), least)
    changed = torch.tensor([not one.sound for one in certificates], device=s.device)
    residuals = torch.where(changed.reshape(*A.batch, 1), measured, triplets.residuals)
    return replace(triplets, residuals=residuals)
