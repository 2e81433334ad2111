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


def has_more_copies(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool | None:
    """Tell whether copies of values that fill a block are missing, and could displace others.

    They could if they lie a tolerance above the last value. None means that the search could not
    tell. It expands one random vector in the complement of the triplets, by as many steps as the
    bases took at most, so it costs less than wider blocks do.

    Args:
        bases: The factorisation of a single operator.
        ritz: Its leading triplets, accurate to the tolerance.
        tol: Tolerance, relative to s₁.
        monitor: Measures the seconds of products and of orthogonalisation.

    >>> from jvpsvd.operators import MatrixOperator
    >>> from jvpsvd.svd.krylov.ritz import ritz_triplets
    >>> def search(copies):
    ...     values = torch.cat([torch.ones(copies), torch.linspace(0.5, 0, 98)]).double()
    ...     bases = Factorization(MatrixOperator(values.diag()), block_size=2, seed=0, capacity=24)
    ...     bases.initialize()
    ...     while bases.size < 24:
    ...         bases.expand()
    ...     return has_more_copies(bases, ritz_triplets(bases, 4), 1e-4)
    >>> search(copies=2), search(copies=3)
    (False, True)
    """
    bound = least_bound_on_copies(ritz.s, ritz.estimates, tol, bases.block_size, bases.V.dtype)
    return _search(bases, ritz.right, bound, bases.steps, _HALFWAY, monitor)


def has_copies_of_accurate_ones(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool:
    """Tell whether a short search shows copies of values that are accurate long before the end.

    The arguments are those of `has_more_copies`, but other triplets may be far from the tolerance.
    """
    dtype = bases.V.dtype
    accurate = is_sharp(ritz.s, ritz.estimates, dtype)
    estimates = torch.where(accurate, ritz.estimates, -torch.inf)
    bound = least_bound_on_copies(ritz.s, estimates, tol, bases.block_size, dtype)
    steps = max(_SHORT_STEPS, bases.steps // _SHORT_PART)
    return bool(_search(bases, ritz.right[:, accurate], bound, steps, 0.0, monitor))


def has_copies_that_lag(
    bases: Factorization, ritz: Ritz, tol: float, monitor: Monitor | None = None
) -> bool:
    """Tell whether a search shows any value that would displace others.

    The arguments are those of `has_more_copies`.
    """
    bound = least_bound_on_copies(ritz.s, ritz.estimates, tol, 1, bases.V.dtype)
    return bool(_search(bases, ritz.right, bound, bases.steps, 0.0, monitor))


def _search(
    bases: Factorization,
    right: Tensor,
    bound: float,
    steps: int,
    halfway: float,
    monitor: Monitor | None,
) -> bool | None:
    V = linear_combination(bases.V, right)
    start = bases.random_column(V)
    return has_value_above(
        bound, bases.operator, V, start, steps=steps, halfway=halfway, monitor=monitor
    )
