"""The search for copies of a repeated value that the blocks could not hold."""

from __future__ import annotations

import torch

from jvpsvd.svd.kernels.orthogonalize import linear_combination
from jvpsvd.svd.krylov.complement import has_value_above
from jvpsvd.svd.krylov.factorization import Factorization, Ritz
from jvpsvd.svd.krylov.multiplicity import is_sharp, least_bound_on_copies
from jvpsvd.svd.monitor import Monitor

# An early search takes this part of the steps so far, or this number: copies that are there show
# sooner than they can be excluded. Guesses.
_EARLY_PART, _EARLY_STEPS = 6, 12
# Other searches are given up if half of their steps bring them less than this share of the way: a
# guess.
_HALFWAY = 0.35


def has_more_copies(
    bases: Factorization,
    ritz: Ritz,
    tol: float,
    *,
    early: bool = False,
    monitor: Monitor | None = None,
) -> bool | None:
    """Tell whether copies of repeated values are missing that could displace others by a tolerance.

    None means that the search could not tell. It expands one random vector in the complement of the
    triplets, by as many steps as the bases took at most, so it costs less than wider blocks do.

    Args:
        bases: The factorisation of a single operator.
        ritz: Its leading triplets.
        tol: Tolerance, relative to s₁.
        early: Whether to search beside those triplets alone that are accurate already, and not long
            enough to exclude copies.
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
    dtype, width = bases.V.dtype, bases.block_size
    estimates, right, steps, halfway = ritz.estimates, ritz.right, bases.steps, _HALFWAY
    if early:
        accurate = is_sharp(ritz.s, estimates, dtype)
        estimates, right = torch.where(accurate, estimates, -torch.inf), right[:, accurate]
        steps, halfway = max(_EARLY_STEPS, steps // _EARLY_PART), 0.0
    bound = least_bound_on_copies(ritz.s, estimates, tol, width, dtype)
    V = linear_combination(bases.V, right)
    start = bases.random_column(V)
    return has_value_above(
        bound, bases.operator, V, start, steps=steps, halfway=halfway, monitor=monitor
    )
