"""Random matrices whose singular values follow a known law, at sizes where none was computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jvpsvd import LinearOperator, aslinearoperator


@dataclass(frozen=True)
class RandomMatrix:
    """A random matrix, and the law of its singular values."""

    operator: LinearOperator
    share_above: Callable[[float], float]
    """The share of the values that are at least τ."""


class HalfRotation(LinearOperator):
    """n rows and n columns of a random rotation in 2n dimensions, applied by fast transforms.

    The rotation is H D₁ H D₂ H: Hartley transforms H, and diagonals D of random signs.
    """

    def __init__(self, n: int, seed: int) -> None:
        super().__init__((n, n), torch.float32, torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        signs = torch.randint(0, 2, (2, 2 * n, 1), generator=generator)
        self._first, self._second = signs.float() * 2 - 1

    def _matmat(self, V: Tensor) -> Tensor:
        return self._rotate(V, self._first, self._second)

    def _rmatmat(self, U: Tensor) -> Tensor:
        return self._rotate(U, self._second, self._first)

    def _rotate(self, V: Tensor, first: Tensor, second: Tensor) -> Tensor:
        padded = torch.cat([V, torch.zeros_like(V)])
        return _hartley(second * _hartley(first * _hartley(padded)))[: self.shape[-2]]


def _hartley(V: Tensor) -> Tensor:
    """Return the discrete Hartley transform of columns, which is symmetric and orthogonal."""
    F = torch.fft.fft(V, dim=0, norm="ortho")
    return F.real - F.imag


def half_rotation(n: int, seed: int) -> RandomMatrix:
    """Return n × n entries of a rotation: cosines of angles that are uniform in [0, π/2].

    The limit for large n of two random subspaces of half the dimension (Wachter 1980).
    """
    return RandomMatrix(HalfRotation(n, seed), lambda t: 1 - 2 / math.pi * math.asin(min(t, 1.0)))


def gaussian(n: int, seed: int) -> RandomMatrix:
    """Return a 2n × n matrix of independent entries of variance 1/(2n): Marchenko & Pastur 1967."""
    A = aslinearoperator(_normal(2 * n, n, seed))
    return RandomMatrix(A, _share_above(_marchenko_pastur))


def gaussian_product(n: int, seed: int) -> RandomMatrix:
    """Return the product of two n × n Gaussian matrices: Penson & Życzkowski 2011, equation 11."""
    first, second = (aslinearoperator(_normal(n, n, seed + i)) for i in range(2))
    return RandomMatrix(first @ second, _share_above(_fuss_catalan))


LAWS: dict[str, Callable[[int, int], RandomMatrix]] = {
    "half of a rotation": half_rotation,
    "Marchenko–Pastur": gaussian,
    "Fuss–Catalan": gaussian_product,
}


def _normal(m: int, n: int, seed: int) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).div_(m**0.5)


def _share_above(density: Callable[[np.ndarray], np.ndarray]) -> Callable[[float], float]:
    """Return the law of σ from the density of σ², which lies in (0, 7)."""
    x = np.linspace(1e-9, 7, 700_001)[1:]
    values = density(x)
    return lambda t: float(np.trapezoid(np.where(x >= t**2, values, 0.0), x))


def _marchenko_pastur(x: np.ndarray) -> np.ndarray:
    low, high = (1 - 0.5**0.5) ** 2, (1 + 0.5**0.5) ** 2
    inside = ((high - x).clip(0) * (x - low).clip(0)) ** 0.5
    return inside / (np.pi * x)


def _fuss_catalan(x: np.ndarray) -> np.ndarray:
    inside = 27 + 3 * np.sqrt((81 - 12 * x).clip(0))
    top = 2 ** (1 / 3) * inside ** (2 / 3) - 6 * x ** (1 / 3)
    density = 2 ** (1 / 3) * 3**0.5 / (12 * np.pi) * top / (x ** (2 / 3) * inside ** (1 / 3))
    return np.where(x < 27 / 4, density, 0.0)
