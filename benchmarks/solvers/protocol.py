"""How every solver is called, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import scipy.sparse.linalg as sla
from torch import Tensor

from benchmarks.problems.problem import JacobianProblem, Problem, use_plain_attention
from benchmarks.solvers.metering import Meter, MeteredOperator, meter_scipy
from jvpsvd import LinearOperator, as_scipy

T = TypeVar("T")
OURS, BY_HAND = "jvpsvd", "scipy-arpack"
"""Ours as users call it, and what they would pick instead: SciPy's default on their operator."""


class UnableError(Exception):
    """The solver cannot do this task at all; one line says why."""


class Answer(NamedTuple):
    """Triplets in any order, and whether the solver called them converged."""

    s: Tensor
    """(k,) values, or (B, k)."""
    U: Tensor | None
    """(m, k) left vectors, if it gives any."""
    V: Tensor | None
    """(n, k) right vectors, if it gives any."""
    said_converged: bool
    """False where the solver flagged that it missed the tolerance. A solver without such a flag
    says True, since its caller learns nothing else."""
    note: str = ""


@dataclass
class Target:
    """The problem as an adapter gets it. Operators are made on demand, and timed apart."""

    problem: Problem
    meter: Meter = field(default_factory=Meter)
    setup_seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""
        return self.problem.shape

    def ours(self) -> LinearOperator:
        """Return jvpsvd's operator."""
        return MeteredOperator(self.set_up(self.problem.operator), self.meter)

    def ours_as_scipy(self) -> sla.LinearOperator:
        """Return jvpsvd's operator as SciPy's."""
        return meter_scipy(as_scipy(self.set_up(self.problem.operator)), self.meter)

    def by_hand(self) -> sla.LinearOperator:
        """Return the operator that a careful user would write with torch.func."""
        return meter_scipy(self.set_up(self.problem.by_hand), self.meter)

    def dense(self) -> Tensor:
        """Return all entries; the time and the products count as those of the solve."""
        chunk = self.set_up(self.problem.warm_up)
        direction, count = self.problem.dense_products()
        return self.meter.product(direction, count, lambda: self.problem.dense(chunk))

    def function(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the function and the point whose Jacobian is the problem.

        Raises:
            UnableError: If the problem is no Jacobian.
        """
        if not isinstance(self.problem, JacobianProblem):
            raise UnableError("takes the Jacobian of a network, and this is an operator")
        return use_plain_attention(self.problem.function), self.problem.point

    def set_up(self, make: Callable[[], T]) -> T:
        """Return what `make` makes, on the clock of set-up."""
        began = time.perf_counter()
        made = make()
        seconds = time.perf_counter() - began
        self.setup_seconds += seconds
        if self.meter.deadline is not None:
            self.meter.deadline += seconds
        return made


Solve = Callable[[Target, int, float, float], Answer]
"""solve(target, k, tol, budget_seconds). Products raise when the budget is spent; an adapter that
works long between products watches the clock itself."""


@dataclass(frozen=True)
class Solver:
    """A solver, under the name that results have."""

    name: str
    solve: Solve
    requires: tuple[str, ...] = ()
    """The modules that it needs; they are imported before the clock starts."""
    distribution: str | None = None
    """The package whose version is reported."""
    environment: str | None = None
    """The name of its file in solvers/requirements, and of its virtual environment."""
    takes_batches: bool = False
    materialises: bool = False
    """Whether it needs all entries; problems whose entries do not fit are left out."""
    cuda_only: bool = False
    takes_tolerance: bool = True
    """Whether it can run again with a tighter tolerance when it misses the required residual."""
