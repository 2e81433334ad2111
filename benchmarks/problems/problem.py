"""What a solver is set on: one matrix, in each of the ways that solvers take one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.solvers.metering import Meter
from jvpsvd import JacobianOperator, LinearOperator, as_scipy

_CHUNKS = {"cpu": (4, 8, 16), "cuda": (16, 64, 256)}
"""Vectors that torch.func's transforms may take at once; the fastest is found in set-up."""


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

    def warm_up(self) -> int:
        """Let torch build what its transforms need; return the vectors to take at once."""

    def dense(self, meter: Meter | None = None, chunk: int = 16) -> Tensor:
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
        return hand_written(self.function, self.point)

    def warm_up(self) -> int:
        """Take reverse products of the network itself, in chunks of every size."""
        point = self.point[0] if self.batch else self.point
        value, pull = torch.func.vjp(self.function, point)
        return fastest_chunk(torch.func.vmap(pull), value)

    def dense(self, meter: Meter | None = None, chunk: int = 16) -> Tensor:
        """Return `torch.func.jacrev`, in chunks."""
        m, n = self.shape
        rows = torch.func.jacrev(self.function, chunk_size=chunk)

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

    def warm_up(self) -> int:
        """Do nothing: products of an operator need nothing."""
        return 1

    def dense(self, meter: Meter | None = None, chunk: int = 16) -> Tensor:
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

    The function is evaluated once, for all products of either kind; blocks are vmapped in the
    chunks that are fastest here.
    """
    fn = in_plain_attention(fn)
    value, pull = torch.func.vjp(fn, x)
    push = _linearized(fn, x)

    def pull_one(u: Tensor) -> Tensor:
        return pull(u)[0]  # type: ignore[no-any-return]

    pushes, pulls = (
        torch.func.vmap(product, chunk_size=fastest_chunk(torch.func.vmap(product), like))
        for product, like in ((push, x), (pull_one, value))
    )

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


def fastest_chunk(multiply: Callable[[Tensor], Any], like: Tensor) -> int:
    """Return the size of a block at which a product takes least time per vector.

    Args:
        multiply: Maps blocks of vectors.
        like: A vector.
    """

    def seconds(count: int) -> float:
        block = torch.zeros(count, *like.shape, dtype=like.dtype, device=like.device)
        spent = []
        for _ in range(2):  # the first builds what later ones use
            began = time.perf_counter()
            multiply(block)
            if like.is_cuda:
                torch.cuda.synchronize()
            spent.append(time.perf_counter() - began)
        return spent[-1] / count

    return min(_CHUNKS[like.device.type], key=seconds)


def in_plain_attention(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return fn with attention by kernels that have derivatives in both directions."""

    def plain(x: Tensor) -> Tensor:
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                return fn(x)
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    return plain


def _linearized(fn: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v ↦ J v by `torch.func.linearize`, or by `jvp` where a function cannot be recorded."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            push: Callable[[Tensor], Tensor] = torch.func.linearize(fn, x)[1]
            torch.func.vmap(push)(torch.zeros_like(x)[None])
    except Exception:
        return lambda v: torch.func.jvp(fn, (x,), (v,))[1]
    return push


def _tensor(array: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=like.dtype, device=like.device)
