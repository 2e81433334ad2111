"""Norms of the columns of long blocks, summed so that rounding stays small.

They are within a solve, whose numbers `check_scale` keeps in range; `jvpsvd/scaling.py` has norms
of numbers of any size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Columns whose residuals, and entries whose squares, are computed at once. These bound temporary
# tensors: guesses.
COLUMNS_AT_ONCE = 64
_ENTRIES_AT_ONCE = 1 << 23
# `rough_column_norms` adds at most so many squares in float32, whose rounding then leaves a few
# digits: n squares may be off by n eps = 2e-3 at worst. It returns norms below the second number
# only after a float64 sum: squares of such a column may be too small for float32.
_ROWS_AT_ONCE, _SAFE_NORM = 1 << 14, 1e-12
# Entries from which on a float64 copy takes longer than that detour: a guess.
_SMALL = 1 << 13


def column_norms(block: Tensor) -> Tensor:
    """Return the Euclidean norm of every column, summed in float64.

    A float32 sum over a long vector with few large entries has a relative error of 1e-4.
    """
    size = max(1, _ENTRIES_AT_ONCE // max(1, block.shape[-2]))
    if block.shape[-1] <= size:
        norms: Tensor = torch.linalg.vector_norm(block, dim=-2, dtype=torch.float64)
        return norms
    # torch makes a float64 copy of what it sums, so only a part is summed at once.
    return torch.cat([column_norms(part) for part in torch.split(block, size, dim=-1)], dim=-1)


def rough_column_norms(block: Tensor) -> Tensor:
    """Return the approximate norm of every column, float64, right to a few digits.

    On the CPU the squares of a large float32 block are summed in float32, at most 2¹⁴ of them at
    once; this saves the float64 copy that `column_norms` makes. Small blocks, and those where
    squares are too small or too large for float32, are summed in float64.

    >>> rough_column_norms(torch.full((4, 1), 1e-30))
    tensor([2.0000e-30], dtype=torch.float64)
    """
    if block.is_cuda or block.numel() < _SMALL or block.dtype == torch.float64:
        return column_norms(block)  # no float64 copy, or a small one
    rows = block.mT
    whole = rows.shape[-1] // _ROWS_AT_ONCE * _ROWS_AT_ONCE
    parts = [rows[..., whole:].unsqueeze(-2)]
    if whole:
        parts.append(torch.unflatten(rows[..., :whole], -1, (-1, _ROWS_AT_ONCE)))
    partial = torch.cat([torch.linalg.vector_norm(part, dim=-1) for part in parts], dim=-1)
    norms: Tensor = torch.linalg.vector_norm(partial.double(), dim=-1)
    safe = (norms > _SAFE_NORM) & torch.isfinite(norms)
    return norms if safe.all() else column_norms(block)


def residual_norms(
    s: Tensor,
    U: Tensor,
    V: Tensor,
    forward: Callable[[slice], Tensor],
    adjoint: Callable[[slice], Tensor],
) -> Tensor:
    """Return max(|A v̂ − s û|, |A' û − s v̂|) for each triplet, û and v̂ scaled to unit norm.

    `forward` and `adjoint` return A V and A' U for a slice of columns. A vector whose norm is far
    from 1 shows that its basis was not orthonormal; its residual becomes large, as it should.

    >>> s, U = torch.tensor([2.0]), torch.ones(1, 1)
    >>> residual_norms(s, U, U, lambda c: 2 * U[:, c], lambda c: 2.5 * U[:, c])
    tensor([0.5000])
    """
    norms = torch.empty_like(s)
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        u, v, values = U[..., part], V[..., part], s[..., None, part]
        norm_u, norm_v = (column_norms(w).to(s.dtype)[..., None, :] for w in (u, v))
        forward_residual = forward(part) / norm_v - u * (values / norm_u)
        adjoint_residual = adjoint(part) / norm_u - v * (values / norm_v)
        each = (rough_column_norms(r) for r in (forward_residual, adjoint_residual))
        worst = torch.maximum(*each)
        norms[..., part] = worst.to(s.dtype)
    return norms


def one_sided_residual_norms(
    s: Tensor,
    V: Tensor,
    forward: Callable[[Tensor], Tensor],
    adjoint: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return the residuals of s with v and u = A v / |A v|, a few columns at a time.

    `forward` and `adjoint` multiply a block by A and by A'.

    >>> s, V = torch.tensor([2.0]), torch.ones(1, 1)
    >>> one_sided_residual_norms(s, V, lambda block: 2 * block, lambda block: 2.5 * block)
    tensor([0.5000])
    """
    residuals = torch.empty_like(s)
    # Below this the direction of A v is rounding. A residual that is too large does no harm.
    least = torch.finfo(s.dtype).eps ** 0.5 * s[..., :1].double()
    for start in range(0, s.shape[-1], COLUMNS_AT_ONCE):
        part = slice(start, start + COLUMNS_AT_ONCE)
        v, values = V[..., part], s[..., part].double()
        images = forward(v)
        norms = column_norms(images)
        divisor = torch.maximum(norms, torch.where(least > 0, least, 1.0))
        u = images / divisor.to(s.dtype)[..., None, :]
        rest = adjoint(u) - v * (values * norms / divisor).to(s.dtype)[..., None, :]
        found = torch.maximum(column_norms(rest), (norms - values).abs())
        residuals[..., part] = found.to(s.dtype)
    return residuals
