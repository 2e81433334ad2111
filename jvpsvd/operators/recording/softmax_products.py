"""Products with the Jacobian of a softmax between matrix products, in blocks of its rows.

Attention maps a direction to T = A B + …, of all pairs of tokens, then to P = S · (T − Σ S T) with
the value S of its softmax, and then to P C or C P. A mask or the slope of a cap multiplies T or P.
Under vmap each of these would be a block of matrices of all pairs, and S would be copied for every
direction. Here one direction after the other goes through, some rows of S at a time, which stay in
the cache. The columns behind the last that these rows attend to are left out: half of all pairs in
a model that reads from left to right.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import is_batchedtensor
from torch.nn.functional import pad

# Entries of the rows of S that are taken at once, on the CPU and on a GPU.
ENTRIES, _ENTRIES_OF_GPU = 1 << 19, 1 << 26


class Layout(NamedTuple):
    """How the tensors of `multiply_through_softmax` are multiplied, in their order."""

    terms: tuple[str, ...]
    """What T is the sum of, two tensors each: "left" where A is a direction, "right" where B is."""
    results: tuple[str, ...]
    """What is returned, one tensor C each: "rows" for P C, "columns" for C P."""
    before: bool = False
    """Whether T is multiplied entry by entry by the first of the factors."""
    after: bool = False
    """Whether P is, by the next one."""


def multiply_through_softmax(layout: Layout, value: Tensor, *factors: Tensor) -> list[Tensor]:
    """Return the products of P = S · (T − Σ S T), for the sum T of products of matrices.

    Args:
        layout: What the factors are.
        value: S, (heads, rows, columns); its rows add up to one.
        factors: Those of the entries of T and of P, (heads or 1, rows, columns), where the layout
            has them; those of T, (heads, rows, d) and (heads, d, columns) in turn; and then those
            that P is multiplied by: (heads, columns, d) for rows, (heads, d, rows) for columns.

    >>> S, A, B, C = torch.ones(1, 2, 2) / 2, torch.eye(2)[None], torch.eye(2)[None], torch.eye(2)
    >>> multiply_through_softmax(Layout(("left",), ("rows",)), S, A, B, C[None])
    [tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])]
    """
    return list(_ThroughSoftmax.apply(layout, value, *factors))  # type: ignore[no-untyped-call]


def multiply_wide(matrix: Tensor, directions: Tensor) -> Tensor:
    """Return the products of matrices (heads, m, n) and directions (heads, n, d).

    Under vmap the directions stand side by side; vmap itself would copy the matrices for each.

    >>> matrix, vectors = torch.eye(2)[None], torch.ones(5, 1, 2, 1)
    >>> torch.func.vmap(lambda v: multiply_wide(matrix, v))(vectors).shape
    torch.Size([5, 1, 2, 1])
    """
    product: Tensor = _WideProduct.apply(matrix, directions)  # type: ignore[no-untyped-call]
    return product


class _WithoutGrad(torch.autograd.Function):
    """A function with a rule for vmap, and no derivative: products are never differentiated."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing."""


class _ThroughSoftmax(_WithoutGrad):
    @staticmethod
    def forward(layout: Layout, value: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        return tuple(_of_one(layout, value, factors, _row_blocks(value)))

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[Any], layout: Layout, value: Tensor, *factors: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        blocks = _row_blocks(value) if in_dims[1] is None else None
        of_each = []
        for index in range(info.batch_size):
            one = _select(value, in_dims[1], index)
            its = [_select(f, dim, index) for f, dim in zip(factors, in_dims[2:], strict=True)]
            of_each.append(_of_one(layout, one, its, blocks or _row_blocks(one)))
        results = tuple(torch.stack(each) for each in zip(*of_each, strict=True))
        return results, (0,) * len(results)


class _WideProduct(_WithoutGrad):
    @staticmethod
    def forward(matrix: Tensor, directions: Tensor) -> Tensor:
        return torch.bmm(matrix, directions)

    @staticmethod
    def vmap(
        info: Any, in_dims: Sequence[Any], matrix: Tensor, directions: Tensor
    ) -> tuple[Tensor, int]:
        if in_dims[0] is not None or in_dims[1] is None:
            return torch.func.vmap(torch.bmm, tuple(in_dims))(matrix, directions), 0
        beside = directions.movedim(in_dims[1], 2)  # (heads, n, b, d)
        heads, rows, count, width = beside.shape
        product = torch.bmm(matrix, beside.reshape(heads, rows, count * width))
        return product.reshape(heads, -1, count, width), 2


def _row_blocks(value: Tensor) -> list[tuple[slice, int]]:
    """Return the rows that are taken at once, each with the columns up to its last entry not 0."""
    heads, rows, columns = value.shape
    most = _ENTRIES_OF_GPU if value.is_cuda else ENTRIES
    at_once = max(1, min(rows, most // (heads * columns)))
    blocks = [slice(start, start + at_once) for start in range(0, rows, at_once)]
    # A GPU would be waited for, and at several points these are not the same columns.
    if value.is_cuda or is_batchedtensor(value):
        return [(some, columns) for some in blocks]
    return [(some, _used_columns(value[:, some])) for some in blocks]


def _used_columns(rows: Tensor) -> int:
    attended = rows.amax((0, 1)).nonzero()
    return int(attended[-1]) + 1 if len(attended) else 1


def _of_one(
    layout: Layout, value: Tensor, factors: Sequence[Tensor], blocks: list[tuple[slice, int]]
) -> list[Tensor]:
    """Return the products for one direction."""
    before, after = None, None
    if layout.before:
        before, *factors = factors
    if layout.after:
        after, *factors = factors
    terms = len(layout.terms)
    lefts, rights, last = factors[: 2 * terms : 2], factors[1 : 2 * terms : 2], factors[2 * terms :]
    left, right = _side_by_side(lefts, -1), _side_by_side(rights, -2)
    found: list[list[Tensor]] = [[] for _ in last]
    for some, used in blocks:
        share = value[:, some, :used]
        product = torch.bmm(left[:, some], right[..., :used])
        if before is not None:
            product.mul_(before[:, some, :used])
        product.mul_(share)
        product.addcmul_(share, product.sum(-1, keepdim=True), value=-1)
        if after is not None:
            product.mul_(after[:, some, :used])
        for kind, factor, parts in zip(layout.results, last, found, strict=True):
            if kind == "rows":
                parts.append(torch.bmm(product, factor[:, :used]))
            elif parts:
                parts[0][..., :used].add_(torch.bmm(factor[..., some], product))
            else:
                part = torch.bmm(factor[..., some], product)
                parts.append(pad(part, (0, value.shape[-1] - used)))
    return [
        torch.cat(parts, -2) if kind == "rows" else parts[0]
        for kind, parts in zip(layout.results, found, strict=True)
    ]


def _side_by_side(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors), dim)


def _select(tensor: Tensor, dim: int | None, index: int) -> Tensor:
    return tensor if dim is None else tensor.select(dim, index)
