"""A problem: one matrix, or a batch, in each of the forms that solvers take."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import scipy.sparse.linalg as sla
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from jvpsvd import JacobianOperator, LinearOperator, as_scipy

Direction = Literal["forward", "reverse"]
_CHUNKS = {"cpu": (4, 8, 16), "cuda": (16, 64, 256)}
"""Numbers of vectors that torch.func may take at once; set-up finds the fastest."""


class Problem(Protocol):
    """A matrix, or a batch of them. Every method makes a new operator, with nothing recorded."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of products."""

    def operator(self) -> LinearOperator:
        """Return the matrix as jvpsvd's operator."""

    def by_hand(self) -> sla.LinearOperator:
        """Return what a careful user of SciPy would write."""

    def warm_up(self) -> int:
        """Let torch build what its transforms need; return how many vectors to take at once."""

    def dense(self, chunk: int = 16) -> Tensor:
        """Return all entries."""

    def dense_products(self) -> tuple[Direction, int]:
        """Return which products `dense` takes, and how many."""

    def of(self, index: int) -> Problem:
        """Return one matrix of a batch."""

    def double(self) -> Problem:
        """Return the same problem in float64."""


@dataclass(frozen=True)
class JacobianProblem:
    """The Jacobian of a function at a point, or a batch: at each row of the points."""

    function: Callable[[Tensor], Tensor]
    point: Tensor
    batch: bool = False
    in_float64: Callable[[], JacobianProblem] | None = None
    """Makes the same problem in float64."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n), or (B, m, n)."""
        if self.batch:
            return (len(self.point), *self.of(0).shape)
        return self.function(self.point).numel(), self.point.numel()

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the point."""
        return self.point.dtype

    def operator(self) -> LinearOperator:
        """Return a `JacobianOperator`, recorded here."""
        return JacobianOperator(self.function, self.point, batch_dims=1 if self.batch else 0)

    def by_hand(self) -> sla.LinearOperator:
        """Return JVPs and VJPs by torch.func; blocks go through vmap."""
        return write_by_hand(self.function, self.point)

    def warm_up(self) -> int:
        """Take reverse products of the network itself, in chunks of every size."""
        point = self.point[0] if self.batch else self.point
        value, vjp = torch.func.vjp(self.function, point)
        return find_fastest_chunk(torch.func.vmap(vjp), value)

    def dense(self, chunk: int = 16) -> Tensor:
        """Return `torch.func.jacrev`, in chunks."""
        rows = torch.func.jacrev(self.function, chunk_size=chunk)
        return rows(self.point).detach().reshape(self.shape)

    def dense_products(self) -> tuple[Direction, int]:
        """Return the reverse products of `jacrev`."""
        return "reverse", self.shape[0]

    def of(self, index: int) -> JacobianProblem:
        """Return the Jacobian at one of the points."""
        inner = self.in_float64
        wide = None if inner is None else (lambda: inner().of(index))
        return JacobianProblem(self.function, self.point[index], in_float64=wide)

    def double(self) -> JacobianProblem:
        """Return the same problem in float64."""
        if self.in_float64 is None:
            raise ValueError("this function was not made in float64")
        return self.in_float64()


@dataclass(frozen=True)
class OperatorProblem:
    """An operator that is known by its products only."""

    make: Callable[[], LinearOperator]
    wide: Callable[[], LinearOperator] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        return self.make().shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of products."""
        return self.make().dtype

    def operator(self) -> LinearOperator:
        """Return the operator."""
        return self.make()

    def by_hand(self) -> sla.LinearOperator:
        """Return it as SciPy's operator: there is nothing to write by hand."""
        return as_scipy(self.make())

    def warm_up(self) -> int:
        """Do nothing: products of an operator need no preparation."""
        return 1

    def dense(self, chunk: int = 16) -> Tensor:
        """Return its products with unit vectors of the shorter side."""
        A = self.make()
        m, n = A.shape
        eye = torch.eye(min(m, n), dtype=A.dtype, device=A.device)
        return A.rmatmat(eye).mT if m < n else A.matmat(eye)

    def dense_products(self) -> tuple[Direction, int]:
        """Return the products with unit vectors of the shorter side."""
        m, n = self.shape
        return ("reverse", m) if m < n else ("forward", n)

    def of(self, index: int) -> OperatorProblem:
        """Return itself, since it is no batch."""
        return self

    def double(self) -> OperatorProblem:
        """Return the same problem in float64."""
        return OperatorProblem(self.wide or self.make, self.wide)


def write_by_hand(fn: Callable[[Tensor], Tensor], x: Tensor) -> sla.LinearOperator:
    """Return the Jacobian as a good SciPy operator written with torch.func.

    The function is evaluated once, for all products of either kind; blocks are vmapped in the
    chunks that are fastest here.
    """
    fn = use_plain_attention(fn)
    value, vjp = torch.func.vjp(fn, x)
    jvp = _linearize(fn, x)

    def vjp_of_one(u: Tensor) -> Tensor:
        return vjp(u)[0]  # type: ignore[no-any-return]

    jvps, vjps = (
        torch.func.vmap(product, chunk_size=find_fastest_chunk(torch.func.vmap(product), like))
        for product, like in ((jvp, x), (vjp_of_one, value))
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
        matvec=one(jvp, x.shape),
        rmatvec=one(vjp_of_one, value.shape),
        matmat=many(jvps, x.shape),
        rmatmat=many(vjps, value.shape),
    )


def find_fastest_chunk(multiply: Callable[[Tensor], Any], like: Tensor) -> int:
    """Return the number of vectors in a block at which a product is fastest per vector.

    Args:
        multiply: A product with blocks of vectors.
        like: A vector of its domain.
    """

    def seconds(count: int) -> float:
        block = torch.zeros(count, *like.shape, dtype=like.dtype, device=like.device)
        took = []
        for _ in range(2):  # the first call builds what the second uses
            began = time.perf_counter()
            multiply(block)
            if like.is_cuda:
                torch.cuda.synchronize()
            took.append(time.perf_counter() - began)
        return took[-1] / count

    return min(_CHUNKS[like.device.type], key=seconds)


def use_plain_attention(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
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


def _linearize(fn: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v ↦ J v by `torch.func.linearize`, or by `jvp` where a function cannot be recorded."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            jvp: Callable[[Tensor], Tensor] = torch.func.linearize(fn, x)[1]
            torch.func.vmap(jvp)(torch.zeros_like(x)[None])
    except Exception:
        return lambda v: torch.func.jvp(fn, (x,), (v,))[1]
    return jvp


def _tensor(array: np.ndarray[Any, Any], like: Tensor) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array), dtype=like.dtype, device=like.device)
