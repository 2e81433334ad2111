"""The search for copies of a repeated value that the blocks could not hold."""

from __future__ import annotations

import torch
from torch import Tensor

from jvpsvd.svd.kernels.orthogonalize import linear_combination
from jvpsvd.svd.krylov.complement import has_value_above
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.multiplicity import is_sharp, least_bound_on_copies
from jvpsvd.svd.monitor import Monitor

# A short search takes this part of the steps so far, or this number: copies that are there show
# sooner than they can be excluded. Guesses.
_SHORT_PART, _SHORT_STEPS = 6, 12
# A long one is given up if half of its steps bring it less than this share of the way: a guess.
_HALFWAY = 0.35


def excludes_copies(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool:
    """Tell whether a search excludes that copies of values which fill a block are missing.

    It is for copies that could displace others by a tolerance: at least so far above the last
    value. If the answer is no, there are some, or the search could not tell. It takes as many steps
    as the bases took at most, each with one vector, so it costs less than wider blocks do.

    Args:
        bases: The factorisation of a single operator.
        ritz: Its leading triplets, accurate to the tolerance.
        tol: Tolerance, relative to s₁.
        monitor: Measures the seconds of products and of orthogonalisation.

    >>> from jvpsvd.operators import MatrixOperator
    >>> from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
    >>> from jvpsvd.svd.krylov.ritz import ritz_triplets
    >>> def search(copies):
    ...     values = torch.cat([torch.ones(copies), torch.linspace(0.5, 0, 98)]).double()
    ...     A = MatrixOperator(values.diag())
    ...     bases = GolubKahanFactorization(A, block_size=2, seed=0, capacity=24)
    ...     bases.initialize()
    ...     while bases.size < 24:
    ...         bases.expand()
    ...     return excludes_copies(bases, ritz_triplets(bases, 4), 1e-4)
    >>> search(copies=2), search(copies=3)
    (True, False)
    """
    bound = least_bound_on_copies(ritz.s, ritz.estimates, tol, bases.block_size, bases.V.dtype)
    return _search(bases, ritz.right, bound, bases.steps, _HALFWAY, monitor) is False


def shows_value_beside_sharp_ones(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool:
    """Tell whether a short search shows a value beside the triplets that are accurate already.

    It is above the least of these which fills a block, and so probably a copy of it: other triplets
    may still be far from the tolerance. The arguments are those of `excludes_copies`. If the answer
    is no, the search could not tell, or there is nothing.
    """
    dtype = bases.V.dtype
    sharp = is_sharp(ritz.s, ritz.estimates, dtype)
    estimates = torch.where(sharp, ritz.estimates, -torch.inf)
    bound = least_bound_on_copies(ritz.s, estimates, tol, bases.block_size, dtype)
    steps = max(_SHORT_STEPS, bases.steps // _SHORT_PART)
    return _search(bases, ritz.right[:, sharp], bound, steps, None, monitor) is True


def shows_displacing_value(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool:
    """Tell whether a search shows a value that would displace found ones by a tolerance.

    The arguments are those of `excludes_copies`. If the answer is no, the search could not tell, or
    there is nothing; residuals may be too large to tell.
    """
    bound = least_bound_on_copies(ritz.s, ritz.estimates, tol, 1, bases.V.dtype)
    if bound <= float(ritz.s[-1]):
        return False
    steps = max(_SHORT_STEPS, bases.steps // 2)
    return _search(bases, ritz.right, bound, steps, None, monitor) is True


def _search(
    bases: Factorization,
    right: Tensor,
    bound: float,
    steps: int,
    halfway: float | None,
    monitor: Monitor | None,
) -> bool | None:
    V = linear_combination(bases.V, right)
    start = bases.random_column(V)
    return has_value_above(
        bound, bases.operator, V, start, steps=steps, halfway=halfway, monitor=monitor
    )
