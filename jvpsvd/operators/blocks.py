"""Blocks of vectors: how they lie in memory, how they are counted, which ones an operator takes.

A block of b vectors of length n is an (n, b) tensor whose *columns* are contiguous in memory, so
that its transpose is the batch of b rows that automatic differentiation wants, without a copy. A
batch of B matrices of one shape is one operator too: its blocks are (B, n, b), a block per matrix.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arguments import dense_tensor, shown

COMPLEX_FUNCTION = (
    "take its real and imaginary parts as real numbers: torch.view_as_complex of a real point, "
    "torch.view_as_real of a complex value"
)
"""What to do about a function of, or to, complex numbers."""


class Products(NamedTuple):
    """Number of vectors multiplied by an operator, per direction."""

    forward: int = 0
    """Vectors v for which J v was computed."""
    reverse: int = 0
    """Vectors u for which J' u was computed."""

    @property
    def total(self) -> int:
        """Forward and reverse products together."""
        return self.forward + self.reverse

    def since(self, earlier: Products) -> Products:
        """Return the products spent after an earlier reading of the same counter.

        >>> Products(9, 4).since(Products(5, 4))
        Products(forward=4, reverse=0)
        """
        if not isinstance(earlier, Products):
            raise ArgumentError(f"earlier is {shown(earlier)}; give A.products as it was before")
        return Products(self.forward - earlier.forward, self.reverse - earlier.reverse)


@dataclass
class Counter:
    """Vectors multiplied so far; shared by an operator and all that was selected from it."""

    forward: int = 0
    reverse: int = 0


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


def check_places(index: Sequence[int] | Tensor, shape: Sequence[int]) -> Tensor:
    """Return the places in a batch of this shape as a tensor of one dimension.

    Raises:
        ArgumentError: If the shape has no batch, none is given, or one is not in the batch.

    >>> check_places([2, 0], (3, 4, 4))
    tensor([2, 0])
    """
    if len(shape) == 2:
        raise ArgumentError(
            f"select: an operator of shape {by(shape)} is no batch; use it as it is"
        )
    count = shape[0]
    refusal = ArgumentError(
        f"select takes places 0 to {count - 1} of the batch as integers, at least one, got "
        f"{shown(index)}"
    )
    try:
        places = index if isinstance(index, Tensor) else torch.tensor(list(index), device="cpu")
        dense_tensor("index", places)
    except (TypeError, ValueError, RuntimeError) as error:  # one number, words, uneven lists
        raise refusal from error
    whole = places.ndim == 1 and places.numel() > 0 and places.dtype == torch.long
    if not whole or places.is_meta or bool(((places < 0) | (places >= count)).any()):
        raise refusal
    return places


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
