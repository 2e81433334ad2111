"""What every solver offers."""

from __future__ import annotations

from typing import Protocol

from jvpsvd.operators import LinearOperator
from jvpsvd.svd.monitor import Monitor
from jvpsvd.svd.request import Request
from jvpsvd.svd.triplets import Triplets


class Solver(Protocol):
    """Hyper-parameters of a method, with the method itself."""

    def solve(self, A: LinearOperator, request: Request, monitor: Monitor) -> Triplets:
        """Return the leading triplets of A (m, n), m ≥ n, that were asked for.

        Raises:
            NonFiniteError: If a product holds NaN or infinity.
        """
        ...
