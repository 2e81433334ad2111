"""A manifold of known dimension, and random points of it.

A manifold is a smooth map from parameters to q coordinates, followed by an isometric embedding
of R^q into the ambient space. Tangents are derivatives of that map.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from jvpsvd.arguments import dense_tensor, generator_of, whole_number
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.records import ComparedByFields

# A tangent direction shorter than this, relative to the longest, counts as lost.
_FLAT = 1e-8
_POINTS_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class Points(ComparedByFields):
    """N points of d-dimensional manifolds in R^n, with their parameters, tangents and labels."""

    points: Tensor
    """(N, n) the points, noise included."""
    clean: Tensor
    """(N, n) the points on the manifold, before noise."""
    parameters: Tensor
    """(N, p) the parameters of each point."""
    tangents: Tensor
    """(N, n, d) orthonormal bases of the tangent spaces at the clean points."""
    labels: Tensor
    """(N,) index of each point's manifold in `sample_classes`; 0 for a single manifold."""


@dataclass(frozen=True, kw_only=True)
class Manifold(abc.ABC):
    """A smooth map φ: R^p → R^q of rank d, embedded in R^n by a matrix Q with Q'Q = 1.

    Args:
        ambient: Dimension n of the ambient space, at least q.
        seed: Seed of the random frame Q; None: the q coordinates come first, and zeros follow.
    """

    dimension: int = field(init=False)
    """Dimension d of the manifold."""
    ambient: int
    seed: int | None = 0
    _positive: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that must be positive."""

    def __post_init__(self) -> None:
        for name in self._positive:
            check_amount(name, getattr(self, name))
        whole_number("dimension", self.dimension, 1)
        whole_number("ambient", self.ambient, self._sizes()[1])
        if self.seed is not None:
            whole_number("seed", self.seed, 0)

    @abc.abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """Return (p, q), the numbers of parameters and of coordinates."""

    @abc.abstractmethod
    def _draw(self, uniform: Tensor) -> Tensor:
        """Return (N, p) random parameters, made from (N, p) uniform numbers in [0, 1)."""

    @abc.abstractmethod
    def _coordinates(self, parameters: Tensor) -> Tensor:
        """Return φ (q,) for one point's parameters (p,)."""

    @property
    def parameter_count(self) -> int:
        """Number p of parameters of a point."""
        return self._sizes()[0]

    def frame(self) -> Tensor:
        """Return Q, (n, q) float64 with orthonormal columns."""
        return random_frame(self.ambient, self._sizes()[1], self.seed)

    def embed(self, parameters: Tensor) -> Tensor:
        """Return the points Q φ(t), (N, n), of parameters (N, p), in float64.

        Raises:
            ArgumentError: If parameters are of another shape, or have no finite point.
        """
        coordinates = self._at_each(parameters, self._coordinates)
        lost = ~coordinates.isfinite().all(-1)
        if lost.any():
            raise ArgumentError(
                f"parameters[{int(lost.nonzero()[0])}] have no finite point; leave them out, or "
                "give smaller radii and ranges"
            )
        return coordinates @ self.frame().T

    def tangents(self, parameters: Tensor) -> Tensor:
        """Return orthonormal bases (N, n, d) of the range of Q ∂φ/∂t at parameters (N, p).

        Derivatives come from `torch.func.jvp`, exact up to float64 rounding.

        Raises:
            ArgumentError: If parameters are of another shape, or the rank is below d at a point.
        """
        derivatives = self._at_each(parameters, torch.func.jacfwd(self._coordinates))
        # A missing derivative counts as 0, and then the rank is refused.
        U, s, _ = torch.linalg.svd(derivatives.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
        lost = s[:, self.dimension - 1] <= _FLAT * s[:, 0]
        if lost.any():
            raise ArgumentError(
                f"the rank of the derivative at parameters {parameters[lost][0].tolist()} is below "
                f"{self.dimension}; leave that point out"
            )
        basis: Tensor = U[..., : self.dimension]
        return self.frame() @ basis

    def sample(
        self,
        count: int,
        generator: torch.Generator,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> Points:
        """Return random points, with independent noise N(0, noise²) on each of n coordinates.

        Everything is computed in float64 and rounded to dtype at the end. Noise is drawn last, so
        generators in the same state give the same clean points at every noise level.

        Raises:
            ArgumentError: If count < 1, noise < 0, the generator is not on the CPU, or the dtype is
                neither float32 nor float64, or cannot hold the points.

        >>> from jvpsvd.data.manifolds import Torus
        >>> circle = Torus(radii=(2.0,), ambient=3)
        >>> some = circle.sample(5, torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> some.points.shape, some.tangents.shape, round(float(some.points[0].norm()), 12)
        (torch.Size([5, 3]), torch.Size([5, 3, 1]), 2.0)
        """
        whole_number("count", count, 1)
        check_amount("noise", noise, zero=True)
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            raise ArgumentError("generator must be a torch.Generator of the CPU; seed one")
        if dtype not in (torch.float32, torch.float64):
            raise ArgumentError(f"dtype={dtype} must be torch.float32 or torch.float64")
        uniform = torch.rand(count, self.parameter_count, generator=generator, dtype=torch.float64)
        parameters = self._draw(uniform)
        clean, tangents = self.embed(parameters), self.tangents(parameters)
        points = clean + noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        labels = torch.zeros(count, dtype=torch.long)
        points, clean = (
            rounded(name, p, dtype) for name, p in (("points", points), ("clean points", clean))
        )
        parameters = rounded("parameters", parameters, dtype)
        return Points(points, clean, parameters, tangents.to(dtype), labels)

    def _at_each(self, parameters: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        p = self.parameter_count
        parameters = tensor_of("parameters", parameters) if is_array(parameters) else parameters
        dense_tensor("parameters", parameters)
        if parameters.ndim != 2 or parameters.shape[1] != p or parameters.is_complex():
            raise ArgumentError(
                f"parameters {tuple(parameters.shape)} must be real, of shape (N, {p})"
            )
        values: Tensor = torch.func.vmap(function, chunk_size=_POINTS_AT_ONCE)(parameters.double())
        return values


def rounded(name: str, numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Return float64 numbers in a dtype.

    Raises:
        ArgumentError: If they become infinite, or all of them 0.
    """
    found = numbers.to(dtype)
    if not bool(found.isfinite().all()) or bool(found.any()) != bool(numbers.any()):
        wider = "" if dtype == torch.float64 else ", or dtype=torch.float64"
        raise ArgumentError(
            f"{dtype} cannot hold {name} of about {float(numbers.abs().max()):.0e}; give radii, "
            f"ranges, noise and separation nearer 1{wider}"
        )
    return found


def random_frame(rows: int, columns: int, seed: int | None) -> Tensor:
    """Return (rows, columns) uniformly distributed orthonormal columns; unit vectors if None."""
    if seed is None:
        return torch.eye(rows, columns, dtype=torch.float64)
    generator = generator_of(seed)
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    # These signs make Q independent of LAPACK's choice of signs.
    signed: Tensor = Q * R.diagonal().sign()
    return signed


def check_amount(name: str, value: Any, *, zero: bool = False) -> None:
    """Check that a value is a finite number above 0, or at least 0.

    Raises:
        ArgumentError: If it is not.
    """
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        least = "at least 0" if zero else "above 0"
        raise ArgumentError(f"{name}={value!r} must be a finite number {least}")
