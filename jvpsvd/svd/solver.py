"""The interface of all solvers."""

from __future__ import annotations

from typing import Protocol

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Triplets


class Solver(Protocol):
    """The hyper-parameters of a method, and the method `solve`."""

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the leading triplets of A (m, n), m ≥ n, that the request asks for.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        ...
