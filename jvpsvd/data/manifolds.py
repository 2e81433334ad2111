"""Artificial data on manifolds with exact dimension and tangent spaces.

Each manifold is a smooth map from parameters to q coordinates, followed by an isometric embedding
of R^q into the ambient space. Tangents are derivatives of that map. Arguments out of range raise
`ArgumentError`.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from jvpsvd.arguments import whole_number
from jvpsvd.errors import ArgumentError

# A tangent direction shorter than this, relative to the longest, counts as lost.
_FLAT = 1e-8
_F32 = torch.float32
_POINTS_AT_ONCE = 256

GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "F": (((-0.3, -0.6), (-0.3, 0.6), (0.4, 0.6)), ((-0.3, 0.1), (0.2, 0.1))),
    "G": (((0.4, 0.5), (-0.3, 0.6), (-0.4, -0.5), (0.4, -0.6), (0.4, 0.0), (0.1, 0.0)),),
    "J": (((0.3, 0.6), (0.3, -0.4), (0.0, -0.6), (-0.4, -0.4)),),
    "L": (((-0.3, 0.6), (-0.3, -0.6), (0.4, -0.6)),),
}
"""Strokes of the glyphs, polylines with x to the right and y upwards in the square [−1, 1]²."""


@dataclass(frozen=True)
class Points:
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
    _lengths: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that must be positive."""

    def __post_init__(self) -> None:
        for name in self._lengths:
            _amount(name, getattr(self, name))
        whole_number("dimension", self.dimension, 1)
        whole_number("ambient", self.ambient, self._sizes()[1])
        if self.seed is not None:
            whole_number("seed", self.seed, 0)

    @abc.abstractmethod
    def _sizes(self) -> tuple[int, int]:
        """Return (p, q)."""

    @abc.abstractmethod
    def _draw(self, uniform: Tensor) -> Tensor:
        """Return (N, p) random parameters, made from (N, p) uniform numbers in [0, 1)."""

    @abc.abstractmethod
    def _coordinates(self, parameters: Tensor) -> Tensor:
        """Return φ (q,) for one point's parameters (p,)."""

    def frame(self) -> Tensor:
        """Return Q, (n, q) float64 with orthonormal columns."""
        return _frame(self.ambient, self._sizes()[1], self.seed)

    def embed(self, parameters: Tensor) -> Tensor:
        """Return the points Q φ(t), (N, n), of parameters (N, p), in float64.

        Raises:
            ArgumentError: If parameters are of another shape.
        """
        return self._at_each(parameters, self._coordinates) @ self.frame().T

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
        self, count: int, generator: torch.Generator, noise: float = 0.0, dtype: torch.dtype = _F32
    ) -> Points:
        """Return random points, with independent noise N(0, noise²) on each of n coordinates.

        Everything is computed in float64 and rounded to dtype at the end. Noise is drawn last, so
        generators in the same state give the same clean points at every noise level.

        Raises:
            ArgumentError: If count < 1, noise < 0, the generator is not on the CPU, or the dtype is
                neither float32 nor float64.

        >>> circle = Torus(radii=(2.0,), ambient=3)
        >>> some = circle.sample(5, torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> some.points.shape, some.tangents.shape, round(float(some.points[0].norm()), 12)
        (torch.Size([5, 3]), torch.Size([5, 3, 1]), 2.0)
        """
        whole_number("count", count, 1)
        _amount("noise", noise, zero=True)
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            raise ArgumentError("generator must be a torch.Generator of the CPU; seed one")
        if dtype not in (torch.float32, torch.float64):
            raise ArgumentError(f"dtype={dtype} must be torch.float32 or torch.float64")
        p = self._sizes()[0]
        parameters = self._draw(torch.rand(count, p, generator=generator, dtype=torch.float64))
        clean, tangents = self.embed(parameters), self.tangents(parameters)
        points = clean + noise * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
        labels = torch.zeros(count, dtype=torch.long)
        points, clean = points.to(dtype), clean.to(dtype)
        return Points(points, clean, parameters.to(dtype), tangents.to(dtype), labels)

    def _at_each(self, parameters: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        p = self._sizes()[0]
        if parameters.ndim != 2 or parameters.shape[1] != p:
            raise ArgumentError(f"parameters {tuple(parameters.shape)} must be of shape (N, {p})")
        values: Tensor = torch.func.vmap(function, chunk_size=_POINTS_AT_ONCE)(parameters.double())
        return values


@dataclass(frozen=True, kw_only=True)
class LinearSubspace(Manifold):
    """A control without curvature: the span of d orthonormal directions, standard normal in it."""

    dimension: int

    def _sizes(self) -> tuple[int, int]:
        return self.dimension, self.dimension

    def _draw(self, uniform: Tensor) -> Tensor:
        return _normal(uniform)

    def _coordinates(self, parameters: Tensor) -> Tensor:
        return parameters.clone()


@dataclass(frozen=True, kw_only=True)
class Torus(Manifold):
    """A flat torus, the product of d circles: (r₁ cos t₁, r₁ sin t₁, r₂ cos t₂, …), t uniform.

    Its intrinsic curvature is 0. The i-th circle has the curvature 1/rᵢ as a curve.

    Args:
        radii: Radius rᵢ of each of the d circles.
    """

    radii: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        for radius in self.radii:
            _amount("radii", radius)
        object.__setattr__(self, "dimension", len(self.radii))
        super().__post_init__()

    def _sizes(self) -> tuple[int, int]:
        return self.dimension, 2 * self.dimension

    def _draw(self, uniform: Tensor) -> Tensor:
        return 2 * math.pi * uniform

    def _coordinates(self, parameters: Tensor) -> Tensor:
        radii = torch.tensor(self.radii, dtype=parameters.dtype)
        return torch.stack([radii * parameters.cos(), radii * parameters.sin()], dim=-1).flatten()


@dataclass(frozen=True, kw_only=True)
class Sphere(Manifold):
    """The sphere of dimension d and a radius r in R^(d+1), uniform; its parameters are u, |u| = 1.

    Points are r u/|u|, so that the derivative by u has rank d.
    """

    dimension: int
    radius: float = 1.0
    _lengths = ("radius",)

    def _sizes(self) -> tuple[int, int]:
        return self.dimension + 1, self.dimension + 1

    def _draw(self, uniform: Tensor) -> Tensor:
        u = _normal(uniform)
        norms: Tensor = u.norm(dim=1, keepdim=True)
        return u / norms

    def _coordinates(self, parameters: Tensor) -> Tensor:
        length: Tensor = parameters.norm()
        return self.radius * parameters / length


@dataclass(frozen=True, kw_only=True)
class SwissRoll(Manifold):
    """A rolled sheet, d = 2: (r t cos t, r t sin t, h), with r t from a third of `radius` to it.

    The sheet makes one and a half turns, 4/9 of `radius` apart. t² and h are uniform, so the
    density on the sheet is nearly uniform.

    Args:
        radius: Radius of the outermost point.
        height: Range of h, [−height/2, height/2].
    """

    dimension: int = field(default=2, init=False)
    radius: float = 1.0
    height: float = 2.0
    _lengths = ("radius", "height")

    def _sizes(self) -> tuple[int, int]:
        return 2, 3

    def _draw(self, uniform: Tensor) -> Tensor:
        first, last = (1.5 * math.pi) ** 2, (4.5 * math.pi) ** 2
        t = (first + (last - first) * uniform[:, 0]).sqrt()
        return torch.stack([t, self.height * (uniform[:, 1] - 0.5)], dim=1)

    def _coordinates(self, parameters: Tensor) -> Tensor:
        t, h = parameters
        scaled = self.radius / (4.5 * math.pi) * t
        return torch.stack([scaled * t.cos(), scaled * t.sin(), h])


@dataclass(frozen=True, kw_only=True)
class Glyph(Manifold):
    """Images of one glyph, turned, shifted and scaled: a smooth function of as many parameters.

    A stroke is a row of Gaussian dots c_k. The pixel at z has the value Σ_k exp(−|z − s R c_k − b|²
    / 2σ²) / √(2π), which is about 1 on strokes. R is the rotation by `angle`, b the shift, and s =
    exp(scale). The parameters are those of (angle, x, y, scale) whose range is not 0, each uniform
    in ± its range. x runs from −1 to 1 to the right, y upwards; pixels are in row-major order.

    Args:
        shape: One of `GLYPHS`.
        size: Pixels per side; q = size².
        angle: Range of the angle, at most π (a closed circle); 0: it is no parameter.
        shift: Ranges of x and y.
        scale: Range of the logarithmic scale.
        width: Standard deviation σ of a stroke's profile.
        ambient: 0: the pixels themselves, size².

    Raises:
        ArgumentError: On an argument out of range, or if all ranges are 0.

    >>> turning = Glyph(shape="F", size=16, angle=math.pi)
    >>> turning.dimension, turning.ambient
    (1, 256)
    """

    ambient: int = 0
    seed: int | None = None
    shape: str = "F"
    size: int = 16
    angle: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 0.0
    width: float = 0.15
    _lengths = ("width",)

    def __post_init__(self) -> None:
        if self.shape not in GLYPHS:
            raise ArgumentError(f"shape={self.shape!r} is unknown; use one of {', '.join(GLYPHS)}")
        whole_number("size", self.size, 2)
        for name, value in zip(("angle", "shift", "shift", "scale"), self._ranges(), strict=True):
            _amount(name, value, zero=True)
        if self.angle > math.pi:
            raise ArgumentError(f"angle={self.angle} covers the circle more than once; at most π")
        moving = sum(value > 0 for value in self._ranges())
        if not moving:
            raise ArgumentError("a glyph that does not move; give angle, shift or scale")
        object.__setattr__(self, "dimension", moving)
        object.__setattr__(self, "ambient", self.ambient or self.size**2)
        super().__post_init__()

    def _ranges(self) -> tuple[float, ...]:
        return (self.angle, *self.shift, self.scale)

    def _sizes(self) -> tuple[int, int]:
        return self.dimension, self.size**2

    def _draw(self, uniform: Tensor) -> Tensor:
        ranges = torch.tensor([r for r in self._ranges() if r > 0], dtype=torch.float64)
        return ranges * (2 * uniform - 1)

    def _coordinates(self, parameters: Tensor) -> Tensor:
        moving = iter(parameters)
        still = parameters.new_zeros(())
        angle, x, y, scale = (next(moving) if r > 0 else still for r in self._ranges())
        # With dots one standard deviation apart, a stroke is constant along its length within 1e-8.
        dots = _dots(self.shape, self.width)
        cos, sin = scale.exp() * angle.cos(), scale.exp() * angle.sin()
        across = cos * dots[:, 0] - sin * dots[:, 1] + x
        upwards = sin * dots[:, 0] + cos * dots[:, 1] + y
        axis = torch.linspace(-1.0, 1.0, self.size, dtype=parameters.dtype)
        columns = torch.exp(-((axis - across[:, None]) ** 2) / (2 * self.width**2))
        rows = torch.exp(-((axis.flip(0) - upwards[:, None]) ** 2) / (2 * self.width**2))
        return (rows.T @ columns).flatten() / math.sqrt(2 * math.pi)


def sample_classes(
    manifolds: Sequence[Manifold], count: int, generator: torch.Generator, noise: float = 0.0,
    dtype: torch.dtype = _F32, *, separation: float = 0.0, seed: int = 0,
) -> Points:  # fmt: skip
    """Return random points of several manifolds, each a class with a label and a centre of its own.

    Centres are `separation` times orthonormal random directions (seed), √2 · separation apart. The
    classes are disjoint if that exceeds the sum of their radii. Otherwise the caller must choose
    disjoint manifolds, such as different glyphs with separation 0.

    Raises:
        ArgumentError: If `Manifold.sample` raises it, or if the manifolds differ in dimension,
            ambient dimension or number of parameters.

    >>> two = [Torus(ambient=9, seed=1), Torus(ambient=9, seed=2)]
    >>> sample_classes(two, 6, torch.Generator().manual_seed(0), separation=4.0).labels
    tensor([0, 1, 1, 0, 1, 1])
    """
    whole_number("count", count, 1)
    kinds = {(m.dimension, m.ambient, m._sizes()[0]) for m in manifolds}
    if len(kinds) != 1:
        raise ArgumentError(
            "classes need manifolds of equal dimension, ambient dimension and number of "
            f"parameters, got {sorted(kinds)}"
        )
    _amount("separation", separation, zero=True)
    whole_number("number of classes", len(manifolds), 1, manifolds[0].ambient, "ambient")
    directions = _frame(manifolds[0].ambient, len(manifolds), whole_number("seed", seed, 0))
    labels = torch.randint(len(manifolds), (count,), generator=generator)
    numbers = labels.bincount(minlength=len(manifolds)).tolist()
    parts = [
        manifold.sample(number, generator, noise, dtype)
        for manifold, number in zip(manifolds, numbers, strict=True)
        if number
    ]
    order = labels.argsort(stable=True).argsort()  # from classes' order to labels'
    points, clean, parameters, tangents = (
        torch.cat([getattr(part, name) for part in parts])[order]
        for name in ("points", "clean", "parameters", "tangents")
    )
    shift = (separation * directions[:, labels].T).to(dtype)
    return Points(points + shift, clean + shift, parameters, tangents, labels)


def _frame(rows: int, columns: int, seed: int | None) -> Tensor:
    """Return (rows, columns) uniformly distributed orthonormal columns; unit vectors if None."""
    if seed is None:
        return torch.eye(rows, columns, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    gaussian = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    # These signs make Q independent of LAPACK's choice of signs.
    signed: Tensor = Q * R.diagonal().sign()
    return signed


def _normal(uniform: Tensor) -> Tensor:
    # The result would be infinite at 0, which is drawn once in 2⁵³ times.
    normal: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54))
    return normal


def _dots(shape: str, spacing: float) -> Tensor:
    """Return (K, 2) dots along the strokes, at most `spacing` apart."""
    dots = []
    for stroke in GLYPHS[shape]:
        for start, end in itertools.pairwise(torch.tensor(stroke, dtype=torch.float64)):
            steps = math.ceil(float((end - start).norm()) / spacing)
            share = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
            dots.append(start + share[:, None] * (end - start))
    return torch.cat(dots)


def _amount(name: str, value: Any, *, zero: bool = False) -> None:
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (real and math.isfinite(value) and (value > 0 or (zero and value == 0))):
        least = "at least 0" if zero else "above 0"
        raise ArgumentError(f"{name}={value!r} must be a finite number {least}")
