"""Singular triplets as a solver hands them over: with the residuals it measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.svd.kernels.orthogonalize import orthonormality

COLUMNS_AT_ONCE = 64
_ENTRIES_AT_ONCE = 1 << 23
_ROWS_AT_ONCE = 1 << 14
# Columns of such a length have lost nothing to squares that are no float32 numbers.
_SURELY_NORMAL = 1e-12


@dataclass(frozen=True)
class Evidence:
    """What a solver found out about one matrix besides its triplets."""

    fro2: float
    """Squared Frobenius norm, exact or estimated without bias."""
    fro2_error: float
    """One standard error of `fro2`; 0 where it is exact."""
    complete: bool
    """Whether something was done that would have shown a missing value."""
    evidence: str
    """What that was, in words."""
    trusted: int
    """How many leading triplets no missing value can displace; all k if complete."""
    epsilon: float
    """Norm of the operator outside the bases: 0 if exact, else from below, NaN if not looked at."""


@dataclass(frozen=True)
class Triplets:
    """k approximate singular triplets of an (m, n) operator and what is known about them.

    Those of a batch have a leading dimension, and evidence for each matrix.
    """

    s: Tensor
    """(k,) descending, in the operator's dtype."""
    residuals: Tensor
    """(k,) max(|A v − s u|, |A' u − s v|) of unit u, v, from real products."""
    U: Tensor | None
    """(m, k) left vectors; None where a solver was asked for values only and kept none."""
    V: Tensor | None
    """(n, k) right vectors; likewise."""
    known: tuple[Evidence, ...]
    """Of each matrix; one if the operator is no batch."""

    def transposed(self) -> Triplets:
        """Return the triplets of A'."""
        return Triplets(self.s, self.residuals, self.V, self.U, self.known)


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
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        u, v, values = U[..., part], V[..., part], s[..., None, part]
        norm_u, norm_v = (column_lengths(w).to(s.dtype)[..., None, :] for w in (u, v))
        ahead = forward(part) / norm_v - u * (values / norm_u)
        back = reverse(part) / norm_u - v * (values / norm_v)
        lengths[..., part] = torch.maximum(column_lengths(ahead), column_lengths(back)).to(s.dtype)
    return lengths


def column_lengths(block: Tensor) -> Tensor:
    """Return the Euclidean length of every column, summed in float64.

    A float32 sum of the squares of a long, locally concentrated vector is off by 1e-4.
    """
    size = max(1, _ENTRIES_AT_ONCE // max(1, block.shape[-2]))
    if block.shape[-1] <= size:
        lengths: Tensor = torch.linalg.vector_norm(block, dim=-2, dtype=torch.float64)
        return lengths
    # torch makes a float64 copy of what it sums.
    return torch.cat([column_lengths(part) for part in torch.split(block, size, dim=-1)], dim=-1)


def rough_lengths(block: Tensor) -> Tensor:
    """Return the length of every column, float64, right to some digits.

    Squares of long columns on the CPU are summed in the block's dtype, over at most 2¹⁴ rows at
    once, which spares the float64 copy of `column_lengths`; others, and those that are no float32
    numbers, in float64.

    >>> rough_lengths(torch.full((4, 1), 1e-30))
    tensor([2.0000e-30], dtype=torch.float64)
    """
    if block.is_cuda or block.shape[-2] < _ROWS_AT_ONCE:
        return column_lengths(block)  # no copy there, or a small one
    rows = block.mT
    whole = rows.shape[-1] // _ROWS_AT_ONCE * _ROWS_AT_ONCE
    parts = [rows[..., whole:].unsqueeze(-2)]
    if whole:
        parts.append(torch.unflatten(rows[..., :whole], -1, (-1, _ROWS_AT_ONCE)))
    found = torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in parts], dim=-1)
    lengths: Tensor = torch.linalg.vector_norm(found.double(), dim=-1)
    sure = (lengths > _SURELY_NORMAL) & torch.isfinite(lengths)
    return lengths if block.dtype == torch.float64 or sure.all() else column_lengths(block)


def with_fixed_signs(triplets: Triplets) -> Triplets:
    """Return the triplets with the largest entry of every right vector positive."""
    V = triplets.V
    if V is None or V.shape[-1] == 0:
        return triplets
    size = max(1, _ENTRIES_AT_ONCE // V.shape[-2])
    for start in range(0, V.shape[-1], size):
        part = slice(start, start + size)
        v = V[..., part]
        largest = v.abs().argmax(dim=-2, keepdim=True)
        signs = torch.where(v.gather(-2, largest) < 0, -1.0, 1.0).to(v.dtype)
        v.mul_(signs)
        if triplets.U is not None:
            triplets.U[..., part].mul_(signs)
    return triplets


def worst_orthonormality(triplets: Triplets) -> Tensor:
    """Return the larger of max|U'U − I| and max|V'V − I|, of the sides that are there."""
    sides = [orthonormality(side) for side in (triplets.U, triplets.V) if side is not None]
    return torch.stack(sides).amax(dim=0)
