"""Whether what lies outside of found triplets has a value above a bound, from one random vector.

Golub–Kahan on Ã = A (I − V V'), from a random unit vector v₁ orthogonal to V, without any
reorthogonalisation but that against V:

    αᵢ uᵢ = Ã vᵢ − βᵢ₋₁ uᵢ₋₁,    βᵢ vᵢ₊₁ = Ã' uᵢ − αᵢ vᵢ.

Let (u, σ, v) be a singular triplet of Ã. Its shares of the vectors, xᵢ = v'vᵢ and yᵢ = u'uᵢ, obey
the same recurrence,

    αᵢ yᵢ = σ xᵢ − βᵢ₋₁ yᵢ₋₁,    βᵢ xᵢ₊₁ = σ yᵢ − αᵢ xᵢ.

So xᵢ = pᵢ(σ) x₁ and yᵢ = qᵢ(σ) x₁, with pᵢ and qᵢ known from α and β, and |x₁| ≤ 1 / pᵢ(σ) because
|xᵢ| ≤ 1. Where all of them are positive, they are so for all larger σ, and grow with σ. In d
dimensions, a random unit vector has a share of at most t in a given direction with probability
t √(2d/π) at most. So if some σ ≥ τ were there, pᵢ(τ) would hardly ever become large. None of this
needs orthogonal vectors, so the last two are all that is kept.

Source: Hochstenbach, Probabilistic upper bounds for the matrix two-norm (2013), for V empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice

import torch
from torch import Tensor

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.kernels.norms import rough_column_norms
from jvpsvd.svd.kernels.row_blocked import project, subtract_projection
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.product_checks import largest_product_norm

# Largest probability with which a value that is there stays unseen.
_CHANCE = 1e-6
# A Ritz value that comes near the bound makes pᵢ fall, and where rounding hides which of the two is
# larger, pᵢ would rise again. So a fall to this share is taken for a value at the bound: a guess.
_FALLEN = 1e-3
# A vector that keeps less than this share of its norm is projected once more: "twice is enough"
# (Parlett, The Symmetric Eigenvalue Problem, §6.9).
_KEPT_SHARE = 0.5


def has_value_above(
    bound: float,
    A: LinearOperator,
    V: Tensor,
    start: Tensor,
    *,
    steps: int,
    halfway: float | None = None,
    monitor: Monitor | None = None,
) -> bool | None:
    """Tell whether A (I − V V') has a singular value ≥ `bound`; None if the steps do not show it.

    A value that is there is denied with a probability of 1e-6 at most. One that lies just below the
    bound may be taken for one above.

    Args:
        bound: τ.
        A: The operator (m, n).
        V: (n, j) orthonormal columns.
        start: (n, 1) random unit vector, uniformly distributed in the complement of V.
        steps: Largest number of steps.
        halfway: The answer is None if half of the steps bring log pᵢ, which grows evenly where
            nothing is there, less than this share of the way. None: take all steps, since pᵢ falls
            just before a value shows.
        monitor: Measures the seconds of products and of orthogonalisation, and shows progress. The
            answer is None if the caller stops the solve.

    Raises:
        NonFiniteError: If a product holds NaN or infinity.

    >>> from jvpsvd.operators import MatrixOperator
    >>> A = MatrixOperator(torch.linspace(2, 1, 100).double().diag())
    >>> V, start = torch.eye(100).double()[:, :1], torch.ones(100, 1).double() / 99**0.5
    >>> start[0] = 0
    >>> [has_value_above(bound, A, V, start, steps=90) for bound in (1.98, 2.0)]
    [True, False]
    """
    dimensions = V.shape[-2] - V.shape[-1]
    target = math.sqrt(2 * dimensions / math.pi) / _CHANCE
    x, y, last, largest = 1.0, 0.0, 0.0, 1.0
    monitor = monitor or Monitor()
    norms = islice(_recurrence(A, V, start, monitor), steps)
    for step, (alpha, beta) in enumerate(norms, 1):
        y = (bound * x - last * y) / alpha
        x, last = (bound * y - alpha * x) / beta, beta
        largest = max(largest, x)
        if min(x, y) <= 0 or x < _FALLEN * largest:  # a Ritz value reaches the bound
            return True
        if x >= target:
            return False
        slow = halfway is not None and math.log(x) < halfway * math.log(target)
        if (slow and 2 * step >= steps) or not monitor.go_on():
            return None
    return None


def _recurrence(
    A: LinearOperator, V: Tensor, start: Tensor, monitor: Monitor
) -> Iterator[tuple[float, float]]:
    """Yield α₁, β₁, α₂, β₂ and so on in pairs.

    No number is taken to be below rounding. A vector whose norm is becomes shorter than 1, which
    does no harm.
    """
    kind = torch.finfo(start.dtype)
    v, u, beta, least = start, start.new_zeros(A.shape[-2], 1), 0.0, kind.tiny
    for step in count(1):
        where = f"step {step} beside the triplets"
        with monitor.phase("products"):
            W = A.matmat(v)
            least = max(least, kind.eps * float(largest_product_norm(A, W, "forward", where)))
        with monitor.phase("orthogonalisation"):
            W = W - beta * u
            alpha = max(_norm(W), least)
            u = W / alpha
        with monitor.phase("products"):
            Z = A.rmatmat(u)
            largest_product_norm(A, Z, "reverse", where)
        with monitor.phase("orthogonalisation"):
            Z = _without(V, Z - alpha * v)
            beta = max(_norm(Z), least)
            v = Z / beta
        yield alpha, beta


def _without(V: Tensor, Z: Tensor) -> Tensor:
    """Return (I − V V') Z."""
    before = _norm(Z)
    Z = subtract_projection(Z, V, project(V, Z))
    return Z if _norm(Z) > _KEPT_SHARE * before else subtract_projection(Z, V, project(V, Z))


def _norm(column: Tensor) -> float:
    return float(rough_column_norms(column))
