"""Stack operators, and restrict one to some rows and columns.

Sums, products, multiples and the transpose are signs of `LinearOperator` itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from jvpsvd.arguments import one_of, shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.blocks import by
from jvpsvd.operators.linear_operator import ComposedOperator, LinearOperator
from jvpsvd.text_table import count_noun

Index = Sequence[int] | Tensor | slice | range | None


def stack(operators: Sequence[LinearOperator], dim: Literal[0, 1] = 0) -> LinearOperator:
    """Return one operator made of others, stacked vertically or horizontally.

    With dim=0 it is (A₁; A₂; …), whose right singular vectors belong to all of them together; with
    dim=1 it is (A₁ A₂ …). A product of it is one product of each.

    Args:
        operators: At least one, of one dtype and device, with as many columns (dim=0) or rows
            (dim=1); batches must be of one size.
        dim: 0 to add rows, 1 to add columns, as `torch.cat`.

    Raises:
        ArgumentError: If there is none, or they do not fit each other.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A, B = MatrixOperator(torch.eye(2)), MatrixOperator(torch.ones(1, 2))
    >>> stack([A, B]) @ torch.tensor([1.0, 2.0])
    tensor([1., 2., 3.])
    >>> stack([A, B.T], dim=1)
    <TransposedOperator 2 x 3, torch.float32, cpu>
    """
    one_of("dim", dim, (0, 1), "must be 0, for more rows, or 1, for more columns")
    single = isinstance(operators, LinearOperator) or hasattr(operators, "layout")
    if single or not isinstance(operators, Iterable):
        raise ArgumentError(f"stack takes a list of operators, not {shown(operators)}")
    parts = list(operators)
    if not parts:
        raise ArgumentError("stack takes at least one operator, got none")
    for part in parts:
        if not isinstance(part, LinearOperator):
            raise ArgumentError(
                f"stack takes operators, not {type(part).__name__}; see aslinearoperator"
            )
    first, kept = parts[0], -1 if dim == 0 else -2
    for index, part in enumerate(parts):
        if (part.batch, part.shape[kept]) != (first.batch, first.shape[kept]):
            raise ArgumentError(
                f"cannot stack operator 0 of shape {by(first.shape)} and operator {index} of shape "
                f"{by(part.shape)}: all but the stacked side must be the same"
            )
    if dim == 1:
        return stack([part.T for part in parts]).T
    rows = [part.shape[-2] for part in parts]

    def matmat(V: Tensor, *parts: LinearOperator) -> Tensor:
        out = V.new_empty(*V.shape[:-2], V.shape[-1], sum(rows))
        for part, target in zip(parts, torch.split(out, rows, dim=-1), strict=True):
            target.copy_(part.matmat(V).mT)
        return out.mT

    def rmatmat(U: Tensor, *parts: LinearOperator) -> Tensor:
        images = (
            p.rmatmat(block) for p, block in zip(parts, torch.split(U, rows, dim=-2), strict=True)
        )
        total = next(images).clone()
        for image in images:
            total += image
        return total

    shape = (*first.batch, sum(rows), first.shape[-1])
    return ComposedOperator(shape, *parts, matmat=matmat, rmatmat=rmatmat)


def restrict(A: LinearOperator, rows: Index = None, columns: Index = None) -> LinearOperator:
    """Return the part of A in some rows and columns: some logits, or a region of the image.

    A product of it is a product of A, with zeros in the columns left out.

    Args:
        A: An operator or a batch, of shape (…, m, n).
        rows: Indices 0 … m − 1 in any order, each once at most, as integers, a slice or a range;
            or a boolean mask of m entries, of any shape; None for all.
        columns: The same for 0 … n − 1.

    Raises:
        ArgumentError: If an index does not exist or stands twice, or none is left.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = MatrixOperator(torch.arange(6.0).reshape(2, 3))
    >>> restrict(A, rows=[1], columns=slice(1, None)) @ torch.eye(2)
    tensor([[4., 5.]])
    >>> restrict(A, columns=torch.tensor([True, False, True])).shape
    (2, 2)
    """
    if not isinstance(A, LinearOperator):
        raise ArgumentError(f"restrict takes an operator, not {shown(A)}; see aslinearoperator")
    m, n = A.shape[-2:]
    kept_rows, kept_columns = (
        _check_indices("rows", rows, m),
        _check_indices("columns", columns, n),
    )
    height = m if kept_rows is None else len(kept_rows)
    width = n if kept_columns is None else len(kept_columns)
    at_rows, at_columns = (
        None if kept is None else kept.to(A.device) for kept in (kept_rows, kept_columns)
    )
    return ComposedOperator(
        (*A.batch, height, width),
        A,
        matmat=lambda V, A: _take_rows(A.matmat(_spread(V, at_columns, n)), at_rows),
        rmatmat=lambda U, A: _take_rows(A.rmatmat(_spread(U, at_rows, m)), at_columns),
    )


def _take_rows(block: Tensor, index: Tensor | None) -> Tensor:
    return block if index is None else block.mT.index_select(-1, index).mT


def _spread(block: Tensor, index: Tensor | None, length: int) -> Tensor:
    """Return the block with zeros in the rows between these indices."""
    if index is None:
        return block
    rows = block.new_zeros(*block.shape[:-2], block.shape[-1], length)
    return rows.index_copy_(-1, index, block.mT.contiguous()).mT


def _check_indices(name: str, index: Any, length: int) -> Tensor | None:
    if index is None:
        return None
    if isinstance(index, slice):
        index = range(*index.indices(length))
    refusal = ArgumentError(
        f"{name} takes indices 0 to {length - 1} as integers, at least one, or a boolean mask"
    )
    try:
        indices = (
            index.clone() if isinstance(index, Tensor) else torch.tensor(list(index), device="cpu")
        )
    except (TypeError, ValueError, RuntimeError) as error:  # one number, words, uneven lists
        raise refusal from error
    if not indices.is_nested and indices.is_quantized:
        raise refusal
    if indices.dtype == torch.bool:
        if indices.numel() != length:
            entries = count_noun(indices.numel(), "entry", "entries")
            raise ArgumentError(
                f"{name}: a mask of shape {tuple(indices.shape)} has {entries}, the operator "
                f"{length} {name}"
            )
        indices = indices.flatten().nonzero().flatten()
    real = indices.is_floating_point() or indices.is_complex()
    if real or indices.ndim != 1 or not indices.numel():
        raise refusal
    indices = indices.long()
    if bool(((indices < 0) | (indices >= length)).any()):
        raise refusal
    if len(set(indices.tolist())) != indices.numel():
        raise ArgumentError(f"{name} names an index twice; each stands once at most")
    return indices
