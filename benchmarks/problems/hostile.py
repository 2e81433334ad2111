"""Matrices and operators on which SVD solvers go wrong, each with its true answer.

All are small (300 x 240, k = 10), so that the truth is known by construction or from LAPACK, and
every solver can take part. `tol` is the required residual, relative to s₁.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.problems.spectra import SpectralOperator
from jvpsvd import LinearOperator

SHAPE = (300, 240)
K = 10
_POISONED = 5
_ADJOINT_ERROR = 1e-2


@dataclass(frozen=True)
class Hostile:
    """An operator as solvers see it, and an honest one whose triplets are wanted."""

    seen: LinearOperator
    honest: LinearOperator


@dataclass(frozen=True)
class Case:
    """One kind of hostile operator."""

    name: str
    about: str
    build: Callable[[], Hostile]
    tol: float


def truth(case: Hostile, k: int = K) -> Tensor:
    """Return the k true values; for `Waiting`, call it after the solve."""
    honest = case.honest
    if isinstance(honest, SpectralOperator):
        padded = torch.nn.functional.pad(honest.values, (0, k))
        return padded.sort(descending=True).values[:k]
    eye = torch.eye(honest.shape[1], dtype=honest.dtype)
    return torch.linalg.svdvals(honest.matmat(eye).double())[:k]


def of_values(values: Tensor, dtype: torch.dtype = torch.float64) -> Callable[[], Hostile]:
    """Return a builder of an operator with these values, and zeros after them."""

    def build() -> Hostile:
        A = SpectralOperator(SHAPE, values, dtype=dtype)
        return Hostile(A, A)

    return build


class Narrowed(LinearOperator):
    """A float64 operator that computes its products in float32."""

    def __init__(self, inner: SpectralOperator) -> None:
        super().__init__(inner.shape, torch.float64)
        self._inner = inner

    def _matmat(self, V: Tensor) -> Tensor:
        return self._inner.matmat(V.float()).double()

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._inner.rmatmat(U.float()).double()


class Poisoned(LinearOperator):
    """The fifth product holds a NaN, and no other does."""

    def __init__(self, inner: LinearOperator) -> None:
        super().__init__(inner.shape, inner.dtype)
        self._inner = inner
        self._calls = 0

    def _matmat(self, V: Tensor) -> Tensor:
        return self._poison(self._inner.matmat(V))

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._poison(self._inner.rmatmat(U))

    def _poison(self, block: Tensor) -> Tensor:
        before = self._calls
        self._calls += block.shape[1]
        if before < _POISONED <= self._calls:
            block = block.clone()
            block[0, _POISONED - 1 - before] = torch.nan
        return block


class OneWay(LinearOperator):
    """Reverse products belong to another matrix, a hundredth of s₁ away."""

    def __init__(self, inner: SpectralOperator) -> None:
        super().__init__(inner.shape, inner.dtype)
        self._inner = inner
        scale = _ADJOINT_ERROR * inner.values[0] * torch.ones(1, dtype=torch.float64)
        self._other = SpectralOperator(inner.shape, scale.repeat(min(inner.shape)), seed=7)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._inner.matmat(V)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._inner.rmatmat(U) + self._other.rmatmat(U.double()).to(U.dtype)


class Waiting(LinearOperator):
    """A matrix whose top singular vectors are orthogonal to the first block that is multiplied.

    After that block it is one fixed matrix, 2 u w' + (I − u u') A (I − w w'), with w (or u)
    orthogonal to the block. The Krylov space of that block contains w only by rounding.
    """

    def __init__(self, inner: SpectralOperator) -> None:
        super().__init__(inner.shape, inner.dtype)
        self._inner = inner
        self._pair: tuple[Tensor, Tensor] | None = None

    def _matmat(self, V: Tensor) -> Tensor:
        u, w = self._chosen(right=V)
        rest = self._inner.matmat(V - w @ (w.T @ V))
        return 2 * u @ (w.T @ V) + rest - u @ (u.T @ rest)

    def _rmatmat(self, U: Tensor) -> Tensor:
        u, w = self._chosen(left=U)
        rest = self._inner.rmatmat(U - u @ (u.T @ U))
        return 2 * w @ (u.T @ U) + rest - w @ (w.T @ rest)

    def _chosen(
        self, *, left: Tensor | None = None, right: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self._pair is None:
            m, n = self.shape
            self._pair = (
                _orthogonal_to(left, m, 1).to(self.dtype),
                _orthogonal_to(right, n, 2).to(self.dtype),
            )
        return self._pair


def _orthogonal_to(block: Tensor | None, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(size, 1, generator=generator, dtype=torch.float64)
    if block is not None and block.shape[1] < size:
        basis = torch.linalg.qr(block.double())[0]
        for _ in range(2):
            vector -= basis @ (basis.T @ vector)
    return vector / torch.linalg.vector_norm(vector)


def _falling(count: int = 240) -> Tensor:
    return torch.arange(1, count + 1, dtype=torch.float64) ** -0.5


def _behind(hidden: Callable[[SpectralOperator], LinearOperator]) -> Callable[[], Hostile]:
    def build() -> Hostile:
        honest = SpectralOperator(SHAPE, _falling())
        return Hostile(hidden(honest), honest)

    return build


def _narrowed() -> Hostile:
    inner = SpectralOperator(SHAPE, _falling(), dtype=torch.float32)
    return Hostile(Narrowed(inner), SpectralOperator(SHAPE, _falling()))


def _waiting() -> Hostile:
    A = Waiting(SpectralOperator(SHAPE, _falling()))
    return Hostile(A, A)


_ONES = torch.ones(240, dtype=torch.float64)
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "repeated",
            "1, eight times, then 1/2, 1/3, …",
            of_values(torch.cat([_ONES[:8], 1 / torch.arange(2, 200, dtype=torch.float64)])),
            1e-6,
        ),
        Case("rank 6", "fewer non-zero values than are asked for", of_values(_falling(6)), 1e-6),
        Case(
            "huge gap",
            "1, then 1e-7 and less: squares of these drown in rounding",
            of_values(torch.cat([_ONES[:1], 1e-7 * _falling(239)])),
            1e-10,
        ),
        Case(
            "norm 1e-30",
            "float32; squares underflow",
            of_values(1e-30 * _falling(), torch.float32),
            1e-4,
        ),
        Case(
            "norm 1e30",
            "float32; squares overflow",
            of_values(1e30 * _falling(), torch.float32),
            1e-4,
        ),
        Case("float32 inside", "float64 operator, float32 products", _narrowed, 1e-10),
        Case("NaN", "in the fifth product only", _behind(Poisoned), 1e-6),
        Case("wrong adjoint", "reverse products are off by s1/100", _behind(OneWay), 1e-6),
        Case("blind start", "the top vectors are orthogonal to the start", _waiting, 1e-6),
        Case("flat", "all values are 1", of_values(_ONES), 1e-6),
        Case(
            "slope",
            "from 1 to 1/2 in equal steps",
            of_values(1 - torch.arange(240, dtype=torch.float64) / 480),
            1e-6,
        ),
    )
}
