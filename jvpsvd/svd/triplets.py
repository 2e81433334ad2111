"""Singular triplets as a solver returns them, with the residuals it measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from jvpsvd.svd.kernels.orthogonalize import orthonormality
from jvpsvd.svd.krylov.quadrature import SpectralSample

# Entries of V whose signs are fixed at once. It bounds temporary tensors: a guess.
_ENTRIES_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Evidence:
    """What a solver found out about one matrix, apart from its triplets."""

    fro2: float
    """‖A‖²_F, exact or estimated without bias."""
    fro2_error: float
    """One standard error of `fro2`; 0 where it is exact."""
    complete: bool
    """Whether the solver took steps that would have shown a missing value."""
    evidence: str
    """Those steps, in words; or why there is no evidence."""
    guaranteed: int
    """How many leading triplets no missing value can displace; all k if complete."""
    epsilon: float
    """‖A − A V V'‖₂ for the solver's basis V: 0 if V spans the space, else an estimate from below
    by the last probe and Krylov columns; NaN if there is no estimate.

    σᵢ(A) ≤ √(σᵢ² + ε²) bounds every value from above: see `SVDResult.upper_bounds`."""


@dataclass(frozen=True)
class Triplets:
    """k approximate singular triplets of an (m, n) operator, and the evidence for them.

    For a batch, every tensor has a leading dimension, and each matrix has evidence of its own.
    """

    s: Tensor
    """(k,) descending, in the operator's dtype."""
    residuals: Tensor
    """(k,) max(|A v − s u|, |A' u − s v|) for unit u and v, measured by products with A."""
    U: Tensor | None
    """(m, k) left vectors; None if the request is for values only and none were kept."""
    V: Tensor | None
    """(n, k) right vectors; likewise."""
    evidence: tuple[Evidence, ...]
    """One for each matrix of a batch; one if there is no batch."""
    samples: tuple[SpectralSample, ...]
    """What the solve says of all singular values, for each matrix likewise."""

    def transposed(self) -> Triplets:
        """Return the triplets of A'."""
        return replace(self, U=self.V, V=self.U)


def with_fixed_signs(triplets: Triplets) -> Triplets:
    """Return the triplets, with the largest entry of every right vector made positive."""
    V = triplets.V
    if V is None or V.shape[-1] == 0:
        return triplets
    size = max(1, _ENTRIES_AT_ONCE // V.shape[-2])
    for start in range(0, V.shape[-1], size):
        part = slice(start, start + size)
        v = V[..., part]
        high, low = v.amax(dim=-2, keepdim=True), -v.amin(dim=-2, keepdim=True)
        negative = low > high
        if bool((low == high).any()):  # the first of the two decides
            largest = v.abs().argmax(dim=-2, keepdim=True)
            negative = v.gather(-2, largest) < 0
        signs = torch.where(negative, -1.0, 1.0).to(v.dtype)
        v.mul_(signs)
        if triplets.U is not None:
            triplets.U[..., part].mul_(signs)
    return triplets


def worst_orthonormality(triplets: Triplets) -> Tensor:
    """Return the larger of max|U'U − I| and max|V'V − I|; a side that is None is left out."""
    sides = [orthonormality(side) for side in (triplets.U, triplets.V) if side is not None]
    return torch.stack(sides).amax(dim=0)
