"""Blocks of vectors: how they lie in memory, and which ones an operator takes.

A block of b vectors of length n is an (n, b) tensor whose *columns* are contiguous in memory, so
that its transpose is the batch of b rows that automatic differentiation wants, without a copy. A
batch of B matrices of one shape is one operator too: its blocks are (B, n, b), a block per matrix.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, shown
from jvpsvd.errors import ArgumentError

T = TypeVar("T")

COMPLEX_FUNCTION = (
    "take its real and imaginary parts as real numbers: torch.view_as_complex of a real point, "
    "torch.view_as_real of a complex value"
)
"""The remedy for a function of complex points or with complex values."""


def columns(block: Tensor) -> Tensor:
    """Return an (n, b) or (…, n, b) block with contiguous columns; copies only when it must.

    Raises:
        ArgumentError: If it is no such block.

    >>> columns(torch.ones(3, 2)).stride()
    (1, 3)
    >>> columns(torch.ones(5, 3, 2)).stride()
    (6, 1, 3)
    """
    if dense_tensor("the block", block).ndim < 2:
        raise ArgumentError(
            f"the block has shape {tuple(block.shape)}; give (n, b), or v[:, None] for one vector"
        )
    return block.mT.contiguous().mT


def select_in_layout(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return the entries at these indices along a dimension, laid out in memory as the tensor is.

    Views that were recorded rely on the layout.

    >>> select_in_layout(torch.ones(4, 3, 2).mT, 0, torch.tensor([2, 0])).stride()
    (6, 1, 2)
    """
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    part = tensor.permute(order).index_select(order.index(dim), index.to(tensor.device))
    return part.permute([order.index(each) for each in range(tensor.ndim)])


class Selection:
    """Chosen points of a batch: takes their part of each tensor, and copies none of them twice.

    >>> chosen, X = Selection(torch.tensor([2, 0])), torch.arange(3.0)
    >>> chosen(X), chosen(X) is chosen(X), chosen.of(["a", "b", "c"])
    (tensor([2., 0.]), True, ('c', 'a'))
    """

    def __init__(self, index: Tensor) -> None:
        self._index = index
        self._taken: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self._index)

    def __call__(self, tensor: Tensor) -> Tensor:
        """Return the part of a tensor whose first dimension is that of the points."""
        if id(tensor) not in self._taken:  # an id is that of no other tensor while this one lives
            self._taken[id(tensor)] = tensor, select_in_layout(tensor, 0, self._index)
        return self._taken[id(tensor)][1]

    def of(self, items: Sequence[T]) -> tuple[T, ...]:
        """Return the chosen ones of a sequence with an item for each point."""
        return tuple(items[i] for i in self._index.tolist())


def by(shape: Sequence[int]) -> str:
    """Return a shape as messages write it.

    >>> by((3, 4))
    '3 x 4'
    """
    return " x ".join(map(str, shape))


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return (m, n) or (B, m, n) as a tuple of integers.

    Raises:
        ArgumentError: If it has another number of sizes, or one that is not positive.

    >>> check_shape(torch.Size([5, 3, 2]))
    (5, 3, 2)
    """
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except (TypeError, ValueError, RuntimeError) as error:  # not to be listed, or no whole numbers
        raise ArgumentError(
            f"operator shape {shown(shape)} holds no sizes; give (m, n) in whole numbers"
        ) from error
    if len(sizes) not in (2, 3):
        raise ArgumentError(
            f"operator shape {sizes} has {len(sizes)} sizes; give (m, n), or (B, m, n) for a batch "
            "of matrices"
        )
    if max(sizes) >= 1 << 63:
        raise ArgumentError(f"operator shape {by(sizes)} is larger than any tensor can be")
    if min(sizes) < 1:
        which = "both sides" if len(sizes) == 2 else "the batch and both sides"
        raise ArgumentError(f"operator shape {by(sizes)} is empty; {which} must be at least 1")
    return sizes


def device_of(device: object) -> torch.device:
    """Return a device as blocks on it name theirs: "cuda" is "cuda:0".

    Raises:
        ArgumentError: If there is none of that name here.
    """
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload, no-any-return]
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"device={shown(device)} is none of this machine ({reason[:200]}); give x.device"
        ) from error


def check_image(image: object, shape: tuple[int, ...], dtype: torch.dtype, method: str) -> Tensor:
    """Return what an operator's own product gave, with contiguous columns.

    Raises:
        ArgumentError: If it is no block of this shape and dtype.

    >>> check_image(None, (2, 1), torch.float32, "_matmat of Mine")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: _matmat of Mine returned None; it is to return a ...
    """
    if isinstance(image, Tensor) and not image.is_nested:
        if (tuple(image.shape), image.dtype) == (shape, dtype):
            return columns(image)
        what = f"{shown(image)} in {image.dtype}"
    else:
        what = shown(image)
    raise ArgumentError(
        f"{method} returned {what}; it is to return a tensor of shape {shape} in {dtype}"
    )


def check_real(what: str, dtype: torch.dtype | np.dtype[Any]) -> None:
    """Check that the numbers of a matrix are real floating point ones that torch has.

    Raises:
        ArgumentError: If they are not; of complex ones it says which real matrix does instead.

    >>> check_real("the array", np.dtype(int))
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the array has dtype int64, not real floating point of torch; ...
    """
    if not isinstance(dtype, torch.dtype | np.dtype):
        raise ArgumentError(f"{what} has dtype {shown(dtype)}; give torch.float32 or torch.float64")
    if isinstance(dtype, torch.dtype):
        real, complex_ = dtype.is_floating_point, dtype.is_complex
    else:
        real = dtype.newbyteorder("=") in (np.float16, np.float32, np.float64)
        complex_ = dtype.kind == "c"
    if complex_:
        raise ArgumentError(
            f"{what} is complex ({dtype}), not real floating point; the real [[Re A, -Im A], "
            "[Im A, Re A]] has its singular values, each twice: give that and 2k, or use SciPy"
        )
    if not real:
        raise ArgumentError(
            f"{what} has dtype {dtype}, not real floating point of torch; convert it to float32 or "
            "float64"
        )


def check_indices(index: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Return indices into a batch of this shape as a tensor of one dimension.

    Raises:
        ArgumentError: If the shape has no batch, none is given, or one is not in the batch.

    >>> check_indices([2, 0], (3, 4, 4))
    tensor([2, 0])
    """
    if len(shape) == 2:
        raise ArgumentError(
            f"select: an operator of shape {by(shape)} is no batch; use it as it is"
        )
    count = shape[0]
    refusal = ArgumentError(
        f"select takes indices 0 to {count - 1} of the batch as integers, at least one, got "
        f"{shown(index)}"
    )
    try:
        indices = index if isinstance(index, Tensor) else torch.tensor(list(index), device="cpu")
        dense_tensor("index", indices)
    except (TypeError, ValueError, RuntimeError) as error:  # one number, words, uneven lists
        raise refusal from error
    whole = indices.ndim == 1 and indices.numel() > 0 and indices.dtype == torch.long
    if not whole or indices.is_meta or bool(((indices < 0) | (indices >= count)).any()):
        raise refusal
    return indices


def check_vectors(block: object, size: int, batch: tuple[int, ...]) -> None:
    r"""Check that a block holds one vector, (\*batch, size), or several, (\*batch, size, b).

    Raises:
        ArgumentError: If it does not.

    >>> check_vectors(torch.ones(2, 3), 3, ())
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the vectors have shape (2, 3); give (3,), or (3, b) for b ...
    """
    block = dense_tensor("the block", block)
    lead, one = len(batch), (*batch, size)
    if tuple(block.shape[: lead + 1]) == one and block.ndim <= lead + 2:
        return
    lying = block.ndim == lead + 2 and block.shape[-1] == size
    remedy = "; these lie in rows: transpose them with .mT" if lying else ""
    several = f"({', '.join(map(str, one))}, b)"
    raise ArgumentError(
        f"the vectors have shape {tuple(block.shape)}; give {one}, or {several} for b of them"
        f"{remedy}"
    )
