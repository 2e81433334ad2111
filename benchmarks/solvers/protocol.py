"""What every solver is asked, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import scipy.sparse.linalg as sla
from torch import Tensor

from benchmarks.problems.problem import FunctionSubject, Subject, in_plain_attention
from benchmarks.solvers.metering import Meter, MeteredOperator, metered_scipy
from jvpsvd import LinearOperator, as_scipy

T = TypeVar("T")
OURS, BY_HAND = "jvpsvd", "scipy-arpack"
"""Ours as users call it, and what they would pick: SciPy's default on their own operator."""


class UnableError(Exception):
    """The solver cannot do this task at all; one line says why."""


class Answer(NamedTuple):
    """Triplets in any order, and what the solver said of them."""

    s: Tensor
    """(k,) values, or (B, k)."""
    U: Tensor | None
    """(m, k) left vectors, if it gives any."""
    V: Tensor | None
    """(n, k) right vectors, if it gives any."""
    said_converged: bool
    """False where it flagged that the answer is not what was asked for. A solver that has no such
    flag says True: whoever calls it has no other word from it."""
    note: str = ""


@dataclass
class Target:
    """The matrix as an adapter gets it. Operators are made when asked for, on a clock apart."""

    subject: Subject
    meter: Meter = field(default_factory=Meter)
    setup_seconds: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""
        return self.subject.shape

    def ours(self) -> LinearOperator:
        """Return jvpsvd's operator."""
        return MeteredOperator(self.set_up(self.subject.operator), self.meter)

    def ours_as_scipy(self) -> sla.LinearOperator:
        """Return jvpsvd's operator as SciPy's."""
        return metered_scipy(as_scipy(self.set_up(self.subject.operator)), self.meter)

    def by_hand(self) -> sla.LinearOperator:
        """Return the operator that a careful user would write with torch.func."""
        return metered_scipy(self.set_up(self.subject.by_hand), self.meter)

    def dense(self) -> Tensor:
        """Return all entries; this is no set-up, and its products count."""
        chunk = self.set_up(self.subject.warm_up)
        return self.subject.dense(self.meter, chunk)

    def function(self) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """Return the function and the point whose Jacobian this is.

        Raises:
            UnableError: If it is no Jacobian.
        """
        if not isinstance(self.subject, FunctionSubject):
            raise UnableError("takes the Jacobian of a network, and this is an operator")
        return in_plain_attention(self.subject.function), self.subject.point

    def set_up(self, make: Callable[[], T]) -> T:
        """Return what `make` makes, on the clock of set-up."""
        began = time.perf_counter()
        made = make()
        spent = time.perf_counter() - began
        self.setup_seconds += spent
        if self.meter.deadline is not None:
            self.meter.deadline += spent
        return made


Solve = Callable[[Target, int, float, float], Answer]
"""solve(operator, k, tol, budget_seconds): the budget is kept by the operator, whose products end
with it; an adapter that does long work between products looks at the clock itself."""


@dataclass(frozen=True)
class Peer:
    """A solver, under the name that results are kept by."""

    name: str
    solve: Solve
    requires: tuple[str, ...] = ()
    """Modules without which it is absent; they are imported before the clock starts."""
    distribution: str | None = None
    """Whose version is reported."""
    environment: str | None = None
    """Name of its requirements in benchmarks/peers/requirements, and of its virtual environment."""
    takes_batches: bool = False
    materialises: bool = False
    """Whether it needs all entries; such problems are left out where they do not fit."""
    cuda_only: bool = False
    ladder: bool = True
    """Whether a tighter tolerance can be asked for when the required residual is missed."""
