"""Which method finds k triplets cheapest, and what it is expected to cost."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.svd.arguments import whole_number
from jvpsvd.svd.randomized import BlockKrylov, SubspaceIteration

Method = Literal["golub-kahan", "block-krylov", "subspace-iteration", "exact"]
METHODS = ("auto", "golub-kahan", "randomized", "exact")

# Columns that block Golub–Kahan needs per wanted triplet: 1.3 on the steep spectra of logits to
# 3.2 on the flat ones of early convolutions (EfficientNet-Lite0, tol 1e-4).
_COLUMNS_PER_TRIPLET = 1.8
# A block should be small beside k: at k = 50, blocks of 8 need a quarter fewer products than of 16,
# and blocks of 4 save few more but cost more each.
_BLOCK_SIZE, _SMALL_BLOCK_SIZE, _SMALL_K = 16, 8, 128
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True)
class Plan:
    """The method that was chosen, with the prediction that chose it."""

    method: Method
    block_size: int
    """Vectors per step."""
    max_size: int
    """Columns of the bases that fit the memory."""
    predicted_products: int
    """Forward and reverse products together."""
    predicted_bytes: int
    """Peak memory of bases, their products and the result."""
    reason: str
    """Why this method, in words."""


def plan(
    shape: tuple[int, int],
    itemsize: int,
    k: int | np.integer[Any],
    *,
    method: str = "auto",
    block_size: int | np.integer[Any] | None = None,
    memory: int | str | None = None,
) -> Plan:
    """Choose a method for the k leading triplets of an (m, n) operator.

    Args:
        shape: (m, n).
        itemsize: Bytes per number.
        k: Triplets wanted.
        method: "auto", or the method to plan for.
        block_size: Vectors per step, or None to choose.
        memory: Bytes ("4GiB" works too) that bases and result may take; None: half of the
            machine's memory.

    Raises:
        ArgumentError: On k, method, block size or memory out of range, or a budget that the
            problem cannot be solved in.

    >>> plan((1000, 150528), 4, 500).method
    'exact'
    >>> plan((15680, 150528), 4, 500).method
    'golub-kahan'
    """
    m, n = shape
    short, long = min(m, n), max(m, n)
    k = whole_number("k", k, 1, short, f"min({m}, {n})")
    if method not in METHODS:
        raise ArgumentError(
            f"method={method!r} is unknown; use one of {', '.join(map(repr, METHODS))}"
        )
    if block_size is not None:
        block_size = whole_number("block_size", block_size, 1)
    budget = parse_memory(memory) if memory is not None else _physical_memory() // 2
    result = (m + n) * k * itemsize
    exact_bytes = result + short * long * itemsize + 4 * short * short * 8
    size = min(short, int(_COLUMNS_PER_TRIPLET * k) + 2 * _BLOCK_SIZE)
    per_column = 2 * (m + n) * itemsize
    krylov_bytes = result + size * per_column
    fits = max(0, (budget - result) // per_column)

    exact_is_cheaper = short <= 2 * size and exact_bytes <= budget
    if method == "exact" or (method == "auto" and exact_is_cheaper):
        _refuse_over_budget("exact", shape, k, exact_bytes, budget, memory)
        reason = (
            f"{short} products of the shorter side against about {2 * size}"
            if method == "auto"
            else "asked for"
        )
        return Plan("exact", block_size or 64, short, short, exact_bytes, reason)
    if method == "randomized":
        return _randomized(shape, k, itemsize, budget, memory)
    least = min(short, k + 2 * _BLOCK_SIZE)
    if fits < least:
        _refuse_over_budget("golub-kahan", shape, k, result + least * per_column, budget, memory)
    reason = f"about {2 * size} products against {short}" if method == "auto" else "asked for"
    return Plan(
        "golub-kahan",
        min(block_size or (_SMALL_BLOCK_SIZE if k <= _SMALL_K else _BLOCK_SIZE), short),
        min(short, fits),
        2 * size,
        krylov_bytes,
        reason,
    )


def _randomized(shape: tuple[int, int], k: int, itemsize: int, budget: int, memory: object) -> Plan:
    """Plan the block Krylov method where its bases fit, subspace iteration elsewhere."""
    m, n = shape
    krylov, iteration = BlockKrylov(), SubspaceIteration()
    width = min(m, n, k + krylov.oversample)
    size = min(m, n, krylov.passes * width)
    result = (m + n) * k * itemsize
    krylov_bytes = result + 2 * (m + n) * size * itemsize
    if krylov_bytes <= budget:
        return Plan("block-krylov", width, size, 2 * size, krylov_bytes, "its bases fit the memory")
    # V, U, images and the block being made orthonormal, in both lengths.
    iteration_bytes = result + 3 * (m + n) * width * itemsize
    _refuse_over_budget("randomized", shape, k, iteration_bytes, budget, memory)
    products = (2 * iteration.passes + 1) * width + k
    reason = "the bases of block Krylov do not fit the memory"
    return Plan("subspace-iteration", width, width, products, iteration_bytes, reason)


def parse_memory(memory: int | str) -> int:
    """Return a number of bytes, from itself or from text with a binary unit.

    >>> parse_memory("4GiB"), parse_memory("512 MB"), parse_memory(1000)
    (4294967296, 536870912, 1000)
    """
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", str(memory).lower())
    if match is None or float(match[1]) <= 0 or isinstance(memory, int):
        raise ArgumentError(f"memory={memory!r} is not a size; write bytes or text like '4GiB'")
    return int(float(match[1]) * _UNITS[match[2]])


def _refuse_over_budget(
    method: str, shape: tuple[int, int], k: int, needed: int, budget: int, memory: object
) -> None:
    if needed > budget:
        said = f"memory={memory}" if memory is not None else "half of this machine's memory"
        raise ArgumentError(
            f"k={k} of a {shape[0]} x {shape[1]} operator needs {needed / (1 << 30):.2f} GiB with "
            f"method '{method}', more than {said} ({budget / (1 << 30):.2f} GiB); lower k or raise "
            "memory"
        )


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
