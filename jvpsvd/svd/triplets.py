"""Singular triplets as a solver hands them over: with the residuals it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.svd.orthonormal import orthonormality

_COLUMNS_AT_ONCE = 64


@dataclass(frozen=True)
class Triplets:
    """k approximate singular triplets of an (m, n) operator and what is known about them."""

    s: Tensor
    """(k,) descending, in the operator's dtype."""
    residuals: Tensor
    """(k,) max(|A v − s u|, |A' u − s v|) of unit u, v, from real products."""
    U: Tensor
    """(m, k) left vectors."""
    V: Tensor
    """(n, k) right vectors."""
    fro2: float
    """Squared Frobenius norm of A, exact or estimated without bias."""
    fro2_error: float
    """One standard error of `fro2`; 0 where it is exact."""
    complete: bool
    """Whether something was done that would have shown a missing value."""
    evidence: str
    """What that was, in words."""
    trusted: int
    """How many leading triplets no missing value can displace; all k if complete."""

    def transposed(self) -> Triplets:
        """Return the triplets of A'."""
        return Triplets(
            self.s,
            self.residuals,
            self.V,
            self.U,
            self.fro2,
            self.fro2_error,
            self.complete,
            self.evidence,
            self.trusted,
        )


def residual_lengths(
    s: Tensor,
    U: Tensor,
    V: Tensor,
    forward: Callable[[slice], Tensor],
    reverse: Callable[[slice], Tensor],
) -> Tensor:
    """Return max(|A v̂ − s û|, |A' û − s v̂|) per triplet, û and v̂ scaled to unit length.

    `forward` and `reverse` give A V and A' U for a slice of columns. A vector far from unit length
    (a sign that its basis was not orthonormal) makes its residual large, as it must.

    >>> s, U = torch.tensor([2.0]), torch.ones(1, 1)
    >>> residual_lengths(s, U, U, lambda c: 2 * U[:, c], lambda c: 2.5 * U[:, c])
    tensor([0.5000])
    """
    lengths = torch.empty_like(s)
    for start in range(0, s.shape[0], _COLUMNS_AT_ONCE):
        part = slice(start, start + _COLUMNS_AT_ONCE)
        u, v, values = U[:, part], V[:, part], s[part]
        norm_u, norm_v = column_lengths(u).to(s.dtype), column_lengths(v).to(s.dtype)
        ahead = forward(part) / norm_v - u * (values / norm_u)
        back = reverse(part) / norm_u - v * (values / norm_v)
        lengths[part] = torch.maximum(column_lengths(ahead), column_lengths(back)).to(s.dtype)
    return lengths


def column_lengths(block: Tensor) -> Tensor:
    """Return the Euclidean length of every column, summed in float64.

    A float32 sum of the squares of a long, locally concentrated vector is off by 1e-4.
    """
    lengths: Tensor = torch.linalg.vector_norm(block, dim=0, dtype=torch.float64)
    return lengths


def with_fixed_signs(triplets: Triplets) -> Triplets:
    """Return the triplets with the largest entry of every right vector positive."""
    V = triplets.V
    if V.shape[1] == 0:
        return triplets
    largest = V.abs().argmax(dim=0)
    signs = torch.where(V.gather(0, largest[None])[0] < 0, -1.0, 1.0).to(V.dtype)
    V.mul_(signs)
    triplets.U.mul_(signs)
    return triplets


def worst_orthonormality(triplets: Triplets) -> float:
    """Return the larger of max|U'U − I| and max|V'V − I|."""
    return max(orthonormality(triplets.U), orthonormality(triplets.V))
