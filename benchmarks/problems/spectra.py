"""Matrices of any size whose singular values are known, by fast orthogonal transforms.

A = P diag(s) Q', where Q (and P) is H D₁ H D₂: D are random signs and H the Hartley transform,
real, symmetric and orthogonal, which costs one real FFT. Nothing of m × n is ever stored, so that
n = 1e7 fits, and neither side of A is near any coordinate.
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
    """Of the places 1 … p (float64) and p."""

    def values(self, count: int, p: int) -> Tensor:
        """Return the `count` leading of p values, float64."""
        return self.rule(torch.arange(1, count + 1, dtype=torch.float64), p)


def rank_of(p: int) -> int:
    """Return the rank of the rank-deficient spectrum: a hundred, fewer where p is small."""
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
        Spectrum("rank-deficient", lambda i, p: torch.where(i <= rank_of(p), 1 / i, 0.0)),
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


class Mixing:
    """A random orthogonal matrix Q of n rows, applied to rows at the price of FFTs."""

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
    """A = P diag(s) Q' with given values s, as many as the shorter side at most.

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
        self._left = Mixing(m, 2 * seed, dtype, self.device)
        self._right = Mixing(n, 2 * seed + 1, dtype, self.device)

    def _matmat(self, V: Tensor) -> Tensor:
        return self._applied(V, self._right, self._left, self.shape[0])

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._applied(U, self._left, self._right, self.shape[1])

    def _applied(self, block: Tensor, into: Mixing, out_of: Mixing, size: int) -> Tensor:
        rank = len(self._s)
        scaled = into.reverse(block.mT.contiguous())[..., :rank] * self._s
        padded = torch.nn.functional.pad(scaled, (0, size - rank))
        return out_of.forward(padded).mT


def spectral(
    spectrum: str, n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> SpectralOperator:
    """Return an operator of 3n/4 × n (rounded to fast sizes) with the values of this spectrum."""
    shape = spectral_shape(n)
    p = min(shape)
    return SpectralOperator(shape, SPECTRA[spectrum].values(p, p), dtype=dtype, device=device)


def spectral_shape(n: int) -> tuple[int, int]:
    """Return the shape of the operator that `spectral` makes for n, of about n columns.

    >>> spectral_shape(1000), spectral_shape(10**7)
    ((750, 1000), (7500000, 10000000))
    """
    return fast_size(3 * n // 4), fast_size(n)


def fast_size(n: int) -> int:
    """Return the largest number up to n that has no prime factor above 5."""
    for size in range(n, 0, -1):
        left = size
        for prime in (2, 3, 5):
            while left % prime == 0:
                left //= prime
        if left == 1:
            return size
    raise ValueError(f"no size is at most {n}")
