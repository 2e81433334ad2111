"""The measured cost of an operator's products, and the time that a solve is predicted to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.request import ProblemSize

# What the work beside the products takes, fitted to solves of matrices in memory with 500 to 4000
# rows on two cores (`python -m benchmarks choice` has such solves): floating-point operations per
# second of products with the bases in float32 and of dense decompositions in float64; seconds of a
# step's many small operations; and seconds of all projected problems together, which grow with the
# square of the columns, since there are fewer of them the larger they are.
_RATE32, _RATE64, _STEP, _PER_COLUMN2 = 6e10, 4e10, 2e-3, 0.7e-6
# Each product is timed this often and the fastest call counts, so that a busy machine does not
# change the choice of method: a guess.
_CALLS = 2
# Assume that products with 1, 2 and 8 vectors take a + b, a + 2 b and a + 8 b, and that blocks of 2
# need 0.6 of the products that blocks of 8 need (see `plan`). Then blocks of 2 are faster as soon
# as a + 2 b ≥ 1.3 (a + b).
_ALONE = 1.3
# Timed blocks have at most 1/64 of the shorter side's columns. The four of them then take a
# sixteenth of the products of the exact method, which is what they may save; the sixteenth is a
# guess.
_LARGEST_SHARE = 64
# Golub–Kahan goes without a basis of the longer side for sparse matrices with at most so many
# entries for each row and column, whose products take less time (`python -m benchmarks sparse`),
# and for tolerances from the second number on: a cautious guess.
_FEW_ENTRIES, _LEAST_TOL = 40, 1e-10


@dataclass(frozen=True)
class ProductCost:
    """Seconds per vector in blocks of the solver's width, of one operator or of a whole batch."""

    forward: float
    reverse: float


@dataclass(frozen=True)
class DenseCost:
    """What a machine takes for the work of a solve beside its products."""

    rate32: float = _RATE32
    """Floating-point operations per second of products with the bases, in float32."""
    rate64: float = _RATE64
    """The same of dense decompositions, in float64."""
    step: float = _STEP
    """Seconds of a step beside its arithmetic."""
    per_column2: float = _PER_COLUMN2
    """Seconds of all projected problems, for each squared column, in float32."""


def left_basis_pays(size: ProblemSize, tol: float) -> bool:
    """Return whether Golub–Kahan should form U, which costs time and saves accuracy and products.

    >>> sizes = (ProblemSize((3, 2), torch.float64, entries=entries) for entries in (None, 5))
    >>> [left_basis_pays(size, 1e-5) for size in sizes]
    [True, False]
    """
    on_cpu = size.device is None or size.device.type == "cpu"
    if size.entries is None or size.dtype != torch.float64 or not on_cpu or tol < _LEAST_TOL:
        return True
    return size.entries > _FEW_ENTRIES * sum(size.shape)


def widening_pays(A: LinearOperator) -> bool:
    """Return whether wide products cost so much less per vector that wide blocks pay off.

    This takes four forward products. A plan needs it for small k only.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = MatrixOperator(torch.ones(3, 2))
    >>> widening_pays(A) in (True, False), A.products
    (True, Products(forward=4, reverse=0))
    """
    _, one, two = (_seconds(A.matmat, A.shape[-1], count, A) for count in (1, 1, 2))
    return two < _ALONE * one


def measured_cost(A: LinearOperator, width: int) -> ProductCost:
    """Return what a forward and a reverse product of A cost in blocks of `width` vectors.

    This takes a single product and then two blocks in each direction; the single one sets up what
    later ones reuse. Blocks are narrower where the shorter side is small.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = MatrixOperator(torch.ones(300, 200))
    >>> measured_cost(A, 2).forward > 0, A.products
    (True, Products(forward=5, reverse=5))
    """
    m, n = A.shape[-2:]
    width = min(width, max(1, min(m, n) // _LARGEST_SHARE))
    seconds = []
    for product, length in ((A.matmat, n), (A.rmatmat, m)):
        timings = [_seconds(product, length, count, A) for count in (1, *[width] * _CALLS)]
        seconds.append(min(timings[1:]) / width)
    return ProductCost(*seconds)


def _seconds(
    product: Callable[[Tensor], Tensor], length: int, count: int, A: LinearOperator
) -> float:
    block = torch.full((count, length), length**-0.5, dtype=A.dtype, device=A.device).T
    began = time.perf_counter()
    float(product(block)[..., -1].sum())  # waits for a GPU
    return time.perf_counter() - began


def exact_seconds(
    cost: ProductCost, size: ProblemSize, k: int, dense: DenseCost = DenseCost()
) -> float:
    """Return the predicted time of the exact method: products, decomposition and vectors.

    In float32 the decomposition is that of a Gram matrix, in float64 a QR and an SVD.

    >>> cost, size = ProductCost(1e-3, 2e-3), ProblemSize((3000, 1000), torch.float32)
    >>> round(exact_seconds(cost, size, 100), 2)  # 1000 forward products and 0.2 s
    1.21
    """
    m, n = size.shape
    short, long, matrices = min(m, n), max(m, n), size.batch or 1
    products = short * (cost.forward if m >= n else cost.reverse)
    if size.dtype == torch.float64:
        decomposition = 4 * long * short**2 + 12 * short**3
    else:
        decomposition = long * short**2 + 4 * short**3
    vectors = 6 * long * short * k * _slower(size)
    return products + matrices * (decomposition / dense.rate64 + vectors / dense.rate32)


def golub_kahan_seconds(
    cost: ProductCost,
    size: ProblemSize,
    k: int,
    columns: int,
    width: int,
    dense: DenseCost = DenseCost(),
) -> float:
    """Return the predicted time of Golub–Kahan: products, bases, projected problems and vectors.

    Args:
        cost: Of a product.
        size: Size of the operator.
        k: Number of triplets.
        columns: By which the bases are expanded.
        width: Columns of a block.
        dense: What the machine takes for the rest.

    >>> cost, size = ProductCost(1e-3, 2e-3), ProblemSize((3000, 1000), torch.float32)
    >>> round(golub_kahan_seconds(cost, size, 100, 230, 8), 2)  # 0.69 s of products and 0.1 s
    0.79
    """
    m, n = size.shape
    short, long, matrices = min(m, n), max(m, n), size.batch or 1
    bases = 4 * short * columns**2 + long * columns**2 + 2 * (long + 2 * short) * columns * k
    each = bases / dense.rate32 + dense.per_column2 * columns**2
    products = columns * (cost.forward + cost.reverse)
    return products + dense.step * columns / width + matrices * _slower(size) * each


def _slower(size: ProblemSize) -> float:
    """Return how many times as long dense work takes as in float32."""
    return size.dtype.itemsize / torch.float32.itemsize
