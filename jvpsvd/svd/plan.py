"""Which method finds k triplets cheapest, and what it is expected to cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.svd.arguments import whole_number
from jvpsvd.svd.cost import ProductCost, exact_seconds, golub_kahan_seconds
from jvpsvd.svd.memory import (
    Footprint,
    in_words,
    parse_memory,
    physical_memory,
    reserved,
    without_growth,
)
from jvpsvd.svd.randomized import BlockKrylov, SubspaceIteration

Method = Literal["golub-kahan", "block-krylov", "subspace-iteration", "exact"]
METHODS = ("auto", "golub-kahan", "randomized", "exact")

# Columns that block Golub–Kahan needs at tol 1e-4, about: 1.7 per triplet (1.25 at the logits of
# EfficientNet-Lite0, 1.73 in its middle, more where spectra are flat) and 12 blocks:
# `python -m benchmarks solver` measures both, for k from 1 on.
_PER_TRIPLET, _PER_DECADE, _BLOCKS = 1.7, 0.05, 12
# (k up to which, block): where a wide product costs about as much per vector as a narrow one, a
# narrow block needs fewer (132 with 2, 228 with 8 at k = 20); with more columns the dense work per
# block grows, and is cheaper in wide ones. Elsewhere a call costs nearly the same at any width.
_NARROW_BLOCKS = ((32, 2), (256, 4), (1 << 62, 8))
_WIDE_BLOCKS = ((128, 8), (1 << 62, 16))
_NARROW_CHUNK = 16
# On a GPU a step costs nearly the same at any width, and most of it is not the product
# (`python -m benchmarks gpu` times widths).
_GPU_BLOCKS = ((32, 8), (128, 16), (1 << 62, 32))
_EXACT_BLOCK = 64
# Exact and iterated products within this factor: measuring decides, if the problem is worth it.
_UNDECIDED, _WORTH_MEASURING = 2.0, 256
# What was measured overrules the count of products by this factor only: it is noisy.
_CLEARLY = 1.25


@dataclass(frozen=True)
class Plan:
    """The method that was chosen, with the prediction that chose it."""

    method: Method
    block_size: int
    """Vectors per step."""
    max_size: int
    """Columns of the bases that fit the memory."""
    predicted_products: int
    """Forward and reverse products together, of each matrix of a batch."""
    predicted_bytes: int
    """Peak memory of bases and result; those that outgrow what is reserved may take the budget."""
    reason: str
    """Why this method, in words."""
    values_size: int = 0
    """Columns that fit where only values are wanted, so that U is not kept."""
    widest_block: int = 0
    """Vectors per step up to which a block that copies of a value fill may widen."""
    predicted_seconds: float | None = None
    """If the cost of a product was measured."""
    undecided: bool = False
    """Whether the cost of a product, which was not given, could change the choice."""


def plan(
    shape: tuple[int, int],
    itemsize: int,
    k: int | np.integer[Any],
    *,
    tol: float = 1e-4,
    method: str = "auto",
    block_size: int | np.integer[Any] | None = None,
    memory: int | str | None = None,
    vectors: bool = True,
    chunk: int | None = None,
    batch: int = 1,
    cost: ProductCost | None = None,
    device: torch.device | None = None,
) -> Plan:
    """Choose a method for the k leading triplets of an (m, n) operator.

    Args:
        shape: (m, n).
        itemsize: Bytes per number.
        k: Triplets wanted.
        tol: Residual asked for, relative to s₁.
        method: "auto", or the method to plan for.
        block_size: Vectors per step, or None to choose.
        memory: Bytes ("4GiB" works too) that bases and result may take; None: half of the
            memory of the GPU, or of the machine.
        vectors: Whether vectors are wanted.
        chunk: Vectors from which on a wider product costs no less per vector, if known.
        batch: Matrices that are solved together.
        cost: Of a product, if measured.
        device: Where bases and result lie; None: in the machine's memory.

    Raises:
        ArgumentError: On k, method, block size or memory out of range, or a budget that the
            problem cannot be solved in.

    >>> plan((1000, 150528), 4, 500).method
    'exact'
    >>> plan((15680, 150528), 4, 500).method
    'golub-kahan'
    """
    m, n = shape
    short = min(m, n)
    k = whole_number("k", k, 1, short, f"min({m}, {n})")
    if method not in METHODS:
        raise ArgumentError(
            f"method={method!r} is unknown; use one of {', '.join(map(repr, METHODS))}"
        )
    if block_size is not None:
        block_size = whole_number("block_size", block_size, 1)
    budget = _Budget(memory, shape, k, device)
    footprint = Footprint(max(m, n), short, k, itemsize, batch, vectors)
    if method == "randomized":
        return _randomized(shape, footprint, budget)
    width = min(block_size or _block_size(k, chunk, device), short)
    if block_size is None:
        width = _narrowed(width, footprint, budget.size)
    per_triplet = _PER_TRIPLET + _PER_DECADE * (math.log10(1e-4) - math.log10(tol))
    size = min(short, int(per_triplet * k) + _BLOCKS * width)

    affordable = footprint.exact() <= budget.size
    ratio = short / (2 * size)
    undecided = affordable and short >= _WORTH_MEASURING and 1 / _UNDECIDED <= ratio <= _UNDECIDED
    seconds = None
    exact_is_cheaper, against = ratio <= 1, f"{2 * size}"
    if cost is not None:
        seconds = exact_seconds(cost, m, n, k), golub_kahan_seconds(cost, m, n, k, size)
        if undecided:
            clear = max(seconds) > _CLEARLY * min(seconds)
            exact_is_cheaper = seconds[0] <= seconds[1] if clear else exact_is_cheaper
            against += f", {seconds[0]:.1f} s against {seconds[1]:.1f} s"
    if method == "exact" or (method == "auto" and affordable and exact_is_cheaper):
        budget.refuse("exact", footprint.exact())
        spare = budget.size - footprint.exact()
        fits = max(1, spare // (3 * batch * max(m, n) * itemsize))
        reason = f"{short} products of the shorter side against about {against}"
        return Plan(
            "exact",
            block_size or min(_EXACT_BLOCK, fits),
            short,
            short,
            footprint.exact(),
            reason if method == "auto" else "asked for",
            predicted_seconds=seconds[0] if seconds else None,
            undecided=undecided and method == "auto",
        )
    least = min(short, k + 2 * width)
    column = footprint.column if vectors else footprint.values_column
    # Crowded values ask for a block of random columns beside the other: room for it if there is.
    beside = footprint.beside_bases(2 * width)
    if budget.size < beside + least * column:
        beside = footprint.beside_bases(width)
    fits = max(0, (budget.size - beside) // footprint.column)
    values_fit = max(0, (budget.size - beside) // footprint.values_column)
    fits, values_fit = (without_growth(size, k, width) for size in (fits, values_fit))
    if max(fits, 0 if vectors else values_fit) < least:
        budget.refuse("golub-kahan", beside + least * footprint.column)
    reason = f"about {against} products against {short}" if method == "auto" else "asked for"
    kept = max(
        min(short, fits) * footprint.column, min(short, values_fit) * footprint.values_column
    )
    return Plan(
        "golub-kahan",
        width,
        min(short, fits),
        2 * size,
        beside + reserved(min(short, fits if vectors else values_fit), k, width) * column,
        reason,
        values_size=min(short, values_fit),
        widest_block=_widest(width, footprint, budget.size - kept),
        predicted_seconds=seconds[1] if seconds else None,
        undecided=undecided and method == "auto",
    )


def _block_size(k: int, chunk: int | None, device: torch.device | None) -> int:
    narrow = chunk is not None and chunk <= _NARROW_CHUNK
    wide = _GPU_BLOCKS if device is not None and device.type == "cuda" else _WIDE_BLOCKS
    sizes = _NARROW_BLOCKS if narrow else wide
    width = next(width for most, width in sizes if k <= most)
    return width if chunk is None else max(1, min(width, chunk))


def _narrowed(width: int, footprint: Footprint, budget: int) -> int:
    """Return the width, halved as often as it takes for the least bases to fit."""
    column = footprint.column if footprint.vectors else footprint.values_column

    def needed(width: int) -> int:
        least = min(footprint.short, footprint.k + 2 * width)
        return footprint.beside_bases(width) + least * column

    while width > 1 and needed(width) > budget:
        width //= 2
    return width


def _widest(width: int, footprint: Footprint, spare: int) -> int:
    """Return how often-doubled a block fits, with as many columns for a crowd, into what is left.

    That is what bases as large as planned leave.
    """
    while 2 * width <= footprint.short and footprint.beside_bases(4 * width) <= spare:
        width *= 2
    return width


@dataclass(frozen=True)
class _Budget:
    """Bytes that may be taken, and for what, so that a refusal can say it."""

    memory: int | str | None
    shape: tuple[int, int]
    k: int
    device: torch.device | None

    @property
    def size(self) -> int:
        if self.memory is None:
            return physical_memory(self.device) // 2
        return parse_memory(self.memory)

    def refuse(self, method: str, needed: int) -> None:
        """Raise if a method needs more than there is."""
        if needed > self.size:
            said = f"memory={self.memory}"
            if self.memory is None:
                on_gpu = self.device is not None and self.device.type == "cuda"
                said = f"half of this {'GPU' if on_gpu else 'machine'}'s memory"
            raise ArgumentError(
                f"k={self.k} of a {self.shape[0]} x {self.shape[1]} operator needs "
                f"{in_words(needed)} with method '{method}', more than {said} "
                f"({in_words(self.size)}); lower k or raise memory"
            )


def _randomized(shape: tuple[int, int], footprint: Footprint, budget: _Budget) -> Plan:
    """Plan the block Krylov method where its bases fit, subspace iteration elsewhere."""
    m, n = shape
    krylov, iteration = BlockKrylov(), SubspaceIteration()
    width = min(m, n, footprint.k + krylov.oversample)
    size = min(m, n, krylov.passes * width)
    krylov_bytes = footprint.subspace(width) + size * footprint.column
    if krylov_bytes <= budget.size:
        return Plan("block-krylov", width, size, 2 * size, krylov_bytes, "its bases fit the memory")
    needed = footprint.subspace(width)
    budget.refuse("randomized", needed)
    products = (2 * iteration.passes + 1) * width + footprint.k
    reason = "the bases of block Krylov do not fit the memory"
    return Plan("subspace-iteration", width, width, products, needed, reason)
