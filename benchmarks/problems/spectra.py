"""Matrices of any size whose singular values are known, by fast orthogonal transforms.

A = P diag(s) Q', where Q is H D₁ H D₂, and P likewise. Each D is diagonal with random signs; H is
the Hartley transform, which is real, symmetric and orthogonal and costs one real FFT. No array of
m × n is stored, so that n = 1e7 fits, and no singular vector is close to a unit vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd import LinearOperator

_ROUNDS = 2


@dataclass(frozen=True)
class Spectrum:
    """A rule that gives p singular values, descending."""

    name: str
    rule: Callable[[Tensor, int], Tensor]
    """Maps the indices 1 … p (float64), and p, to values."""

    def values(self, count: int, p: int) -> Tensor:
        """Return the leading `count` of p values, float64."""
        return self.rule(torch.arange(1, count + 1, dtype=torch.float64), p)


def choose_rank(p: int) -> int:
    """Return the rank of the rank-deficient spectrum: a hundred, or less for small p."""
    return max(3, min(100, p // 80))


SPECTRA = {
    spectrum.name: spectrum
    for spectrum in (
        Spectrum("1/i", lambda i, p: 1 / i),
        Spectrum("i^-1/2", lambda i, p: i**-0.5),
        Spectrum("exponential", lambda i, p: torch.exp(-(i - 1) / 50)),
        Spectrum("flat", lambda i, p: torch.ones_like(i)),
        Spectrum("slope", lambda i, p: 1 - (i - 1) / (2 * p)),
        Spectrum("repeated", lambda i, p: ((i - 1) // 10 + 1) ** -0.5),
        Spectrum("rank-deficient", lambda i, p: torch.where(i <= choose_rank(p), 1 / i, 0.0)),
    )
}


def hartley(rows: Tensor) -> Tensor:
    """Return the orthonormal Hartley transform of every row; it is its own inverse.

    >>> hartley(hartley(torch.tensor([[3.0, 0.0, 1.0]]))).round(decimals=5).tolist()
    [[3.0, 0.0, 1.0]]
    """
    n = rows.shape[-1]
    half = torch.fft.rfft(rows, norm="ortho")
    out = torch.empty_like(rows)
    width = half.shape[-1]
    torch.sub(half.real, half.imag, out=out[..., :width])
    rest = n - width  # frequencies n − 1, …, width are the conjugates of 1, …, rest
    if rest:
        mirrored = half[..., 1 : rest + 1]
        out[..., width:] = (mirrored.real + mirrored.imag).flip(-1)
    return out


class RandomOrthogonal:
    """A random orthogonal matrix Q with n rows; a product costs two FFTs."""

    def __init__(self, n: int, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        bits = torch.randint(0, 2, (_ROUNDS, n), generator=generator, dtype=torch.int8)
        self._signs = (2 * bits - 1).to(dtype=dtype, device=device)

    def forward(self, rows: Tensor) -> Tensor:
        """Return (Q x)' for every row x'."""
        for signs in self._signs:
            rows = hartley(rows * signs)
        return rows

    def reverse(self, rows: Tensor) -> Tensor:
        """Return (Q' x)' for every row x'."""
        for signs in self._signs.flip(0):
            rows = hartley(rows) * signs
        return rows


class SpectralOperator(LinearOperator):
    """A = P diag(s) Q' with given values s, at most as many as the shorter side has.

    >>> A = SpectralOperator((5, 8), torch.tensor([3.0, 1.0], dtype=torch.float64))
    >>> torch.linalg.svdvals(A @ torch.eye(8, dtype=torch.float64)).round(decimals=6).tolist()
    [3.0, 1.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        shape: tuple[int, int],
        values: Tensor,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> None:
        super().__init__(shape, dtype, device)
        m, n = shape
        if values.ndim != 1 or not 1 <= len(values) <= min(m, n):
            raise ValueError(f"{tuple(values.shape)} values do not fit a {m} x {n} operator")
        self.values = values.double()
        self._s = values.to(dtype=dtype, device=self.device)
        self._left = RandomOrthogonal(m, 2 * seed, dtype, self.device)
        self._right = RandomOrthogonal(n, 2 * seed + 1, dtype, self.device)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._apply(V, self._right, self._left, self.shape[0])

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._apply(U, self._left, self._right, self.shape[1])

    def _apply(
        self, block: Tensor, into: RandomOrthogonal, out_of: RandomOrthogonal, size: int
    ) -> Tensor:
        rank = len(self._s)
        scaled = into.reverse(block.mT.contiguous())[..., :rank] * self._s
        padded = torch.nn.functional.pad(scaled, (0, size - rank))
        return out_of.forward(padded).mT


def spectral(
    spectrum: str, n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SpectralOperator:
    """Return an operator of 3n/4 × n (rounded to fast sizes) with the values of this spectrum."""
    shape = choose_shape(n)
    p = min(shape)
    return SpectralOperator(shape, SPECTRA[spectrum].values(p, p), dtype=dtype, device=device)


def choose_shape(n: int) -> tuple[int, int]:
    """Return the shape of the operator that `spectral` makes for n, of about n columns.

    >>> choose_shape(1000), choose_shape(10**7)
    ((750, 1000), (7500000, 10000000))
    """
    return find_fast_size(3 * n // 4), find_fast_size(n)


def find_fast_size(n: int) -> int:
    """Return the largest number up to n that has no prime factor above 5."""
    for size in range(n, 0, -1):
        left = size
        for prime in (2, 3, 5):
            while left % prime == 0:
                left //= prime
        if left == 1:
            return size
    raise ValueError(f"no size is at most {n}")
