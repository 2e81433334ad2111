"""The plan of a solve: the cheapest method for k triplets, and its predicted cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from jvpsvd.svd.budget import Budget
from jvpsvd.svd.cost import ProductCost, exact_seconds, golub_kahan_seconds, left_basis_pays
from jvpsvd.svd.krylov.restarts import least_size
from jvpsvd.svd.memory import Footprint, reserved_columns, without_growth
from jvpsvd.svd.methods.adaptive_rank import AdaptiveRank
from jvpsvd.svd.methods.exact import Exact
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.methods.randomized import BlockKrylov, SubspaceIteration
from jvpsvd.svd.request import ProblemSize, Request
from jvpsvd.svd.solver import Solver
from jvpsvd.text_table import brief_seconds, count_noun

Method = Literal["golub-kahan", "block-krylov", "subspace-iteration", "exact", "adaptive-rank"]

# Predicted columns. At tol 1e-4, block Golub–Kahan needs about 1.7 columns per triplet (more where
# spectra are flat) plus 12 blocks, c in all, of a long shorter side n; n (1 − e^(−c/n)) of a short
# one. At EfficientNet-Lite0 (`python -m benchmarks floors`) that is 1008 for k = 500 at
# `_blocks.15`, where 906 were needed, and 647 at the logits (n = 1000), where 667 were, 17 of them
# to time products. `solver` counts columns for k from 1 on. The increase for each decade of tol is
# a guess.
_PER_TRIPLET, _BLOCKS, _PER_DECADE = 1.7, 12, 0.05
# Exact method or Golub–Kahan. If their numbers of products are within the first factor, timings
# decide, provided that the shorter side has so many rows that timing is worth it. Timings are
# noisy: they overrule the numbers only if they differ by the last factor. By it Golub–Kahan must
# need fewer products, too, because the exact method finds all values. All three are guesses.
_UNDECIDED, _WORTH_MEASURING, _CLEARLY = 2.0, 256, 1.25
# A matrix in memory is decomposed as a whole if m n min(m, n) is at most this number: the steps of
# a Krylov method take longer (`python -m benchmarks sparse --quick` has such matrices). A guess.
_SMALL_WORK = 1 << 26
# A small network takes many vectors in a call, which costs about as much as one of a step. Its
# Jacobian is computed as a whole if m n min(m, n) is at most the first number, and a vector takes
# at most so many entries on its way (`python -m benchmarks small_networks`).
_SMALL_JACOBIAN, _SMALL_WIDTH = 1 << 30, 1 << 15
# All matrices of a batch share a step, so it costs less for each: there m n min(m, n) is at most
# the first number, and Golub–Kahan is taken if its products are fewer by more than the factor.
_SMALL_IN_BATCH, _FEWER_IN_BATCH = 1 << 27, 1.5
# Width of blocks, as pairs (largest k, width). Where a wide product costs about as much per vector
# as a narrow one, narrow blocks are chosen for small k, because they need fewer products (132 with
# blocks of 2, 228 with blocks of 8 at k = 20). With larger k there is more dense work per block,
# and that is cheaper in wide blocks. `python -m benchmarks solver` counts and times blocks of 2 to
# 16 for k to 128, `widths` those for larger k.
_NARROW_BLOCKS = ((32, 2), (128, 4), (256, 8), (1 << 62, 16))
# A block is no wider than this many chunks, as pairs (largest k, chunks).
_CHUNKS = ((256, 1), (1 << 62, 2))
# Otherwise a product costs nearly the same at any width.
_WIDE_BLOCKS = ((128, 8), (1 << 62, 16))
# On a GPU a step costs nearly the same at any width, and the product is a small part of it (`python
# -m benchmarks gpu` times several widths).
_GPU_BLOCKS = ((32, 8), (128, 16), (1 << 62, 32))
# So many matrices of a batch keep a GPU busy by themselves, and narrower blocks need fewer
# products: a guess (the same script times widths of a batch).
_BUSY_BATCH = 4
# A chunk of at most this many vectors counts as one whose wide products save nothing: a guess.
_NARROW_CHUNK = 16
# Whether they do is measured for k up to the first number, where narrow blocks need far fewer
# products, and for vectors of at least the second length, where products take most of the time: a
# guess.
_FEW, _LONG = 32, 1 << 18
# Unit vectors per product of the exact method, where memory allows it: the first number, or a
# whole chunk that takes at most so many entries. At small networks few wide products take half of
# the time (the same script).
_EXACT_BLOCK, _EXACT_ENTRIES = 64, 1 << 21


@dataclass(frozen=True)
class Plan:
    """The chosen solver, and the prediction that it was chosen by."""

    solver: Solver
    method: Method
    block_size: int
    """Vectors per step."""
    max_size: int
    """Columns of the bases that fit the memory."""
    predicted_products: int
    """Predicted forward and reverse products together, for each matrix of a batch."""
    predicted_bytes: int
    """Peak memory of bases and result. Bases that outgrow the reserved columns may take the whole
    budget."""
    reason: str
    """Why this method, in words."""
    predicted_seconds: float | None = None
    """Set only if a product was timed."""
    undecided: Literal["method", "width"] | None = None
    """What timing a few products could still change; None if nothing."""


def plan(
    size: ProblemSize,
    request: Request,
    *,
    cost: ProductCost | None = None,
    wide_products_save: bool = True,
) -> Plan:
    """Choose the solver for a request.

    Args:
        size: Size of the operator.
        request: The checked request.
        cost: Measured cost of a product, if any.
        wide_products_save: False if timings showed that wide blocks cost as much per vector as
            narrow ones.

    Raises:
        ArgumentError: If the problem does not fit into the memory.

    >>> import torch
    >>> logits = ProblemSize((1000, 150528), torch.float32)
    >>> plan(logits, Request(500)).method
    'exact'
    >>> plan(ProblemSize((15680, 150528), torch.float32), Request(500)).method
    'golub-kahan'
    """
    m, n = size.shape
    footprint = Footprint(
        max(m, n), min(m, n), request.k, size.dtype.itemsize, size.batch or 1, request.vectors
    )
    budget = Budget(size, request)
    if request.searches_rank:
        return _plan_search(request, footprint, budget)
    if request.method == "randomized":
        return _plan_randomized(footprint, budget)
    width = _block_size(size, request, footprint, budget, wide_products_save)
    columns = _predicted_columns(footprint.short, request, width)
    affordable = footprint.exact() <= budget.bytes
    choice = _choose(size, request, (columns, width), affordable, cost)
    if choice.exact:
        return _plan_exact(size, request, footprint, budget, choice)
    planned = _plan_golub_kahan(size, request, footprint, budget, (columns, width), choice)
    long = request.k <= _FEW and footprint.long >= _LONG
    given = size.batch is not None or size.chunk is not None or request.block_size is not None
    if long and not given and planned.undecided is None and wide_products_save:
        return replace(planned, undecided="width")
    return planned


@dataclass(frozen=True)
class _Choice:
    """The choice between the exact method and Golub–Kahan."""

    exact: bool
    reason: str
    seconds: tuple[float, float] | None
    """Predicted times of the exact method and of Golub–Kahan, if a product was timed."""
    undecided: bool


def _predicted_columns(short: int, request: Request, width: int) -> int:
    """Return the columns that block Golub–Kahan is expected to need."""
    decades = math.log10(1e-4) - math.log10(request.tol)
    per_triplet = _PER_TRIPLET + _PER_DECADE * decades
    of_long = int(per_triplet * request.k) + _BLOCKS * width
    return min(short, max(request.k, math.ceil(-short * math.expm1(-of_long / short))))


def _choose(
    size: ProblemSize,
    request: Request,
    expansion: tuple[int, int],
    affordable: bool,
    cost: ProductCost | None,
) -> _Choice:
    """Choose the method with fewer products, or the faster one if the two are close and timed.

    `expansion` is the number of columns that Golub–Kahan needs, and the width of its blocks.
    """
    m, n = size.shape
    short, (columns, width) = min(m, n), expansion
    ratio = short / (2 * columns)
    undecided = affordable and short >= _WORTH_MEASURING and 1 / _UNDECIDED <= ratio <= _UNDECIDED
    exact_is_cheaper, seconds = ratio <= _CLEARLY, None
    exact_time = iterated_time = ""
    if cost is not None:
        seconds = (
            exact_seconds(cost, size, request.k),
            golub_kahan_seconds(cost, size, request.k, columns, width),
        )
        if undecided:
            clear = max(seconds) > _CLEARLY * min(seconds)
            exact_is_cheaper = seconds[0] <= seconds[1] if clear else exact_is_cheaper
            exact_time, iterated_time = (f", {brief_seconds(each)} s" for each in seconds)
    auto = request.method == "auto"
    small = _is_small(size) and (size.batch is None or ratio <= _FEWER_IN_BATCH)
    exact = request.method == "exact" or (auto and affordable and (small or exact_is_cheaper))
    if not auto:
        reason = "asked for"
    elif exact and small:
        reason = f"the {'matrix' if size.in_memory else 'Jacobian'} is small"
    elif exact:
        rows, against = (
            f"{count_noun(short, 'product')} of the shorter side",
            f"about {2 * columns}",
        )
        reason = f"{rows}{exact_time} against {against}{iterated_time}"
    else:
        reason = f"about {2 * columns} products{iterated_time} against {short}{exact_time}"
    return _Choice(exact, reason, seconds, undecided and auto and not small)


def _is_small(size: ProblemSize) -> bool:
    """Return whether a step costs more than the arithmetic of many products."""
    m, n = size.shape
    work = m * n * min(m, n)
    if size.in_memory:
        return size.batch is None and work <= _SMALL_WORK
    largest = _SMALL_JACOBIAN if size.batch is None else _SMALL_IN_BATCH
    return size.widest is not None and size.widest <= _SMALL_WIDTH and work <= largest


def _plan_exact(
    size: ProblemSize, request: Request, footprint: Footprint, budget: Budget, choice: _Choice
) -> Plan:
    needed, short = footprint.exact(), footprint.short
    budget.refuse("exact", needed)
    block = 3 * footprint.batch * footprint.long * footprint.itemsize
    fits = max(1, (budget.bytes - needed) // block)
    wide = 0
    if size.chunk is not None and size.widest is not None:
        wide = min(size.chunk, _EXACT_ENTRIES // max(footprint.long, size.widest))
    width = request.block_size or min(max(_EXACT_BLOCK, wide), fits)
    return Plan(
        Exact(width),
        "exact",
        width,
        short,
        short,
        needed,
        choice.reason,
        predicted_seconds=choice.seconds[0] if choice.seconds else None,
        undecided="method" if choice.undecided else None,
    )


def _plan_golub_kahan(
    size: ProblemSize,
    request: Request,
    footprint: Footprint,
    budget: Budget,
    expansion: tuple[int, int],
    choice: _Choice,
) -> Plan:
    k, short, (columns, width) = request.k, footprint.short, expansion
    least = min(short, k + 2 * width)
    column = footprint.column if request.vectors else footprint.values_column
    # Clustered values need a block of probe columns beside the next one: memory for both is set
    # aside where there is enough.
    workspace = footprint.workspace(2 * width)
    if budget.bytes < workspace + least_size(k, width, short) * column:
        workspace = footprint.workspace(width)
    spare = max(0, budget.bytes - workspace)
    max_size, values_size = (
        without_growth(spare // each, k, width)
        for each in (footprint.column, footprint.values_column)
    )
    if max(max_size, 0 if request.vectors else values_size) < least:
        budget.refuse("golub-kahan", workspace + least * footprint.column)
    max_size, values_size = min(short, max_size), min(short, values_size)
    kept = max(max_size * footprint.column, values_size * footprint.values_column)
    held = reserved_columns(max_size if request.vectors else values_size, k, width)
    # All columns give all values, which are to be as exact as U makes them.
    without_left = footprint.without_left(max_size if request.vectors else values_size)
    forms_left = columns == short or without_left > budget.bytes
    forms_left = forms_left or left_basis_pays(size, request.tol)
    solver = GolubKahan(
        block_size=width,
        widest_block=_widest(width, footprint, budget.bytes - kept),
        max_size=max_size,
        values_size=values_size,
        may_compact=request.block_size is None,
        forms_left=forms_left,
    )
    return Plan(
        solver,
        "golub-kahan",
        width,
        max_size,
        2 * (columns if forms_left else columns + k),
        max(workspace + held * column, 0 if forms_left else footprint.without_left(held)),
        choice.reason,
        predicted_seconds=choice.seconds[1] if choice.seconds else None,
        undecided="method" if choice.undecided else None,
    )


def _plan_randomized(footprint: Footprint, budget: Budget) -> Plan:
    """Plan the block Krylov method where its bases fit, subspace iteration elsewhere."""
    krylov, iteration, k = BlockKrylov(), SubspaceIteration(), footprint.k
    width, size, needed = _krylov_bases(footprint)
    if needed <= budget.bytes:
        reason = "its bases fit the memory"
        return Plan(krylov, "block-krylov", width, size, 2 * size, needed, reason)
    needed = footprint.subspace(width)
    budget.refuse("randomized", needed)
    products = (2 * iteration.passes + 1) * width + k
    reason = "the bases of block Krylov do not fit the memory"
    return Plan(iteration, "subspace-iteration", width, width, products, needed, reason)


def _plan_search(request: Request, footprint: Footprint, budget: Budget) -> Plan:
    """Plan the search for a rank, with bases at most as large as those of block Krylov."""
    width, size, needed = _krylov_bases(footprint)
    if needed > budget.bytes:
        size, needed = width, footprint.subspace(width)
        budget.refuse("randomized", needed)
    solver = AdaptiveRank(request.energy, request.tail, max_size=size)
    reason = "the rank is searched for, with this many products at most"
    return Plan(solver, "adaptive-rank", solver.width, size, 2 * size, needed, reason)


def _krylov_bases(footprint: Footprint) -> tuple[int, int, int]:
    """Return block width, columns and bytes of the bases of block Krylov."""
    krylov = BlockKrylov()
    width = min(footprint.short, footprint.k + krylov.oversample)
    size = min(footprint.short, krylov.passes * width)
    return width, size, footprint.subspace(width) + size * footprint.column


def _block_size(
    size: ProblemSize,
    request: Request,
    footprint: Footprint,
    budget: Budget,
    wide_products_save: bool,
) -> int:
    """Return the block size for Golub–Kahan."""
    if request.block_size is not None:
        return min(request.block_size, footprint.short)
    chunk = size.chunk
    narrow = not wide_products_save or (chunk is not None and chunk <= _NARROW_CHUNK)
    on_gpu = size.device is not None and size.device.type == "cuda"
    on_gpu = on_gpu and (size.batch or 1) < _BUSY_BATCH
    sizes = _NARROW_BLOCKS if narrow else _GPU_BLOCKS if on_gpu else _WIDE_BLOCKS
    width = _look_up(request.k, sizes)
    if chunk is not None:
        width = max(1, min(width, _look_up(request.k, _CHUNKS) * chunk))
    return _narrow(min(width, footprint.short), footprint, budget.bytes)


def _look_up(k: int, pairs: tuple[tuple[int, int], ...]) -> int:
    """Return the number for k, of pairs (largest k, number)."""
    return next(number for largest_k, number in pairs if k <= largest_k)


def _narrow(width: int, footprint: Footprint, budget: int) -> int:
    """Return the width, halved until bases fit that keep what a few probe columns show."""
    column = footprint.column if footprint.vectors else footprint.values_column

    def needed(width: int) -> int:
        least = least_size(footprint.k, width, footprint.short)
        return footprint.workspace(width) + least * column

    while width > 1 and needed(width) > budget:
        width //= 2
    return width


def _widest(width: int, footprint: Footprint, spare: int) -> int:
    """Return the width, doubled as long as a block and as many probe columns fit into `spare`.

    `spare` are the bytes that bases of the planned size leave.
    """
    while 2 * width <= footprint.short and footprint.workspace(4 * width) <= spare:
        width *= 2
    return width
