"""What a solver is set on: one matrix, in each of the ways that solvers take one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

from benchmarks.metering import Meter
from jvpsvd import JacobianOperator, LinearOperator, as_scipy

_CHUNK = 16
"""Vectors that torch.func's transforms take at once: near the best for our networks here."""


class Subject(Protocol):
    """A matrix, or a batch of them. Every method makes its operator anew, with nothing recorded."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""

    def operator(self) -> LinearOperator:
        """Return the matrix as jvpsvd's operator."""

    def by_hand(self) -> sla.LinearOperator:
        """Return what a careful user of SciPy would write."""

    def warm_up(self) -> None:
        """Let torch import and build what its transforms need at their first use."""

    def dense(self, meter: Meter | None = None) -> Tensor:
        """Return all entries; products that it takes are counted."""

    def of(self, index: int) -> Subject:
        """Return one matrix of a batch."""

    def double(self) -> Subject:
        """Return the same in float64."""


@dataclass(frozen=True)
class FunctionSubject:
    """The Jacobian of a function at a point; or at each row of the points, a batch."""

    function: Callable[[Tensor], Tensor]
    point: Tensor
    batch: bool = False
    in_float64: Callable[[], FunctionSubject] | None = None
    """Makes the same in float64."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""
        if self.batch:
            return (len(self.point), *self.of(0).shape)
        return self.function(self.point).numel(), self.point.numel()

    @property
    def dtype(self) -> torch.dtype:
        """That of the point."""
        return self.point.dtype

    def operator(self) -> LinearOperator:
        """Return a `JacobianOperator`, recorded here."""
        return JacobianOperator(self.function, self.point, batch_dims=1 if self.batch else 0)

    def by_hand(self) -> sla.LinearOperator:
        """Return JVPs and VJPs of torch.func; blocks go through vmap."""
        self.warm_up()
        return hand_written(self.function, self.point)

    def warm_up(self) -> None:
        """Take one product each way, on the network itself."""
        zeros = torch.zeros_like(self.point)
        torch.func.vmap(lambda v: torch.func.jvp(self.function, (self.point,), (v,))[1])(
            zeros[None]
        )
        value, pull = torch.func.vjp(self.function, self.point)
        torch.func.vmap(pull)(torch.zeros_like(value)[None])

    def dense(self, meter: Meter | None = None) -> Tensor:
        """Return `torch.func.jacrev`, in chunks."""
        m, n = self.shape
        rows = torch.func.jacrev(self.function, chunk_size=_CHUNK)

        def work() -> Tensor:
            return rows(self.point).detach().reshape(m, n)

        return work() if meter is None else meter.product("reverse", m, work)

    def of(self, index: int) -> FunctionSubject:
        """Return the Jacobian at one of the points."""
        inner = self.in_float64
        wide = None if inner is None else (lambda: inner().of(index))
        return FunctionSubject(self.function, self.point[index], in_float64=wide)

    def double(self) -> FunctionSubject:
        """Return the same in float64."""
        if self.in_float64 is None:
            raise ValueError("this function was not made in float64")
        return self.in_float64()


@dataclass(frozen=True)
class OperatorSubject:
    """An operator that there is already, by its products."""

    make: Callable[[], LinearOperator]
    wide: Callable[[], LinearOperator] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        return self.make().shape

    @property
    def dtype(self) -> torch.dtype:
        """Of products."""
        return self.make().dtype

    def operator(self) -> LinearOperator:
        """Return the operator."""
        return self.make()

    def by_hand(self) -> sla.LinearOperator:
        """Return it as SciPy's: there is nothing to write by hand."""
        return as_scipy(self.make())

    def warm_up(self) -> None:
        """Do nothing: products of an operator need nothing."""

    def dense(self, meter: Meter | None = None) -> Tensor:
        """Return its products with unit vectors of the shorter side."""
        A = self.make()
        m, n = A.shape
        eye = torch.eye(min(m, n), dtype=A.dtype, device=A.device)

        def work() -> Tensor:
            return A.rmatmat(eye).mT if m < n else A.matmat(eye)

        if meter is None:
            return work()
        return meter.product("reverse" if m < n else "forward", min(m, n), work)

    def of(self, index: int) -> OperatorSubject:
        """Return itself: it is no batch."""
        return self

    def double(self) -> OperatorSubject:
        """Return the same in float64."""
        return OperatorSubject(self.wide or self.make, self.wide)


def hand_written(fn: Callable[[Tensor], Tensor], x: Tensor) -> sla.LinearOperator:
    """Return the Jacobian as a good SciPy operator written with torch.func.

    The primal of the VJP is evaluated once; blocks are vmapped in chunks.
    """
    value, pull = torch.func.vjp(fn, x)

    def push(v: Tensor) -> Tensor:
        return torch.func.jvp(fn, (x,), (v,))[1]

    pushes = torch.func.vmap(push, chunk_size=_CHUNK)
    pulls = torch.func.vmap(lambda u: pull(u)[0], chunk_size=_CHUNK)

    def one(product: Callable[[Tensor], Tensor], shape: torch.Size) -> Callable[[Any], Any]:
        return lambda v: product(_tensor(v, x).reshape(shape)).detach().reshape(-1).cpu().numpy()

    def many(product: Callable[[Tensor], Tensor], shape: torch.Size) -> Callable[[Any], Any]:
        def multiply(block: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            rows = product(_tensor(block.T, x).reshape(-1, *shape)).detach()
            return rows.reshape(len(rows), -1).cpu().numpy().T

        return multiply

    return sla.LinearOperator(
        shape=(value.numel(), x.numel()),
        dtype=torch.empty(0, dtype=x.dtype).numpy().dtype,
        matvec=one(push, x.shape),
        rmatvec=one(lambda u: pull(u)[0], value.shape),
        matmat=many(pushes, x.shape),
        rmatmat=many(pulls, value.shape),
    )


def _tensor(array: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=like.dtype, device=like.device)
