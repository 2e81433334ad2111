"""The measured cost of an operator's products, and the time that a solve is predicted to take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator

# Floating-point operations per second of dense matrix products in float64 and float32. These are
# cautious guesses: the operator's own products are timed, and the guesses matter only where the two
# methods take nearly the same time.
_RATE64, _RATE32 = 2e10, 6e10
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


@dataclass(frozen=True)
class ProductCost:
    """Seconds per vector of one operator in blocks of the solver's width."""

    forward: float
    reverse: float


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
    cost: ProductCost, m: int, n: int, k: int, rate64: float = _RATE64, rate32: float = _RATE32
) -> float:
    """Return the predicted time of the exact method: products, Gram matrix and vectors.

    Rates are floating-point operations per second of dense products.
    """
    short, long = min(m, n), max(m, n)
    products = short * (cost.forward if m >= n else cost.reverse)
    return products + 2 * long * short**2 / rate64 + 6 * long * short * k / rate32


def golub_kahan_seconds(
    cost: ProductCost, m: int, n: int, k: int, size: int, rate32: float = _RATE32
) -> float:
    """Return the predicted time of Golub–Kahan: products, orthogonalisation and vectors."""
    short, long = min(m, n), max(m, n)
    dense = 4 * short * size**2 + long * size**2 + 2 * (long + 2 * short) * size * k
    return size * (cost.forward + cost.reverse) + dense / rate32
