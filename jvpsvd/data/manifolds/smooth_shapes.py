"""Subspaces, tori, spheres and the Swiss roll."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jvpsvd.data.manifolds.manifold import Manifold, check_amount


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
            check_amount("radii", radius)
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
    _positive = ("radius",)

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
    _positive = ("radius", "height")

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


def _normal(uniform: Tensor) -> Tensor:
    # The result would be infinite at 0, which is drawn once in 2⁵³ times.
    normal: Tensor = torch.special.ndtri(uniform.clamp_min(2.0**-54))
    return normal
