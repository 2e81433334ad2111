"""Images of glyphs that turn, shift and grow."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jvpsvd.arguments import whole_number
from jvpsvd.data.manifolds.manifold import Manifold, check_amount
from jvpsvd.errors import ArgumentError

GLYPHS: dict[str, tuple[tuple[tuple[float, float], ...], ...]] = {
    "F": (((-0.3, -0.6), (-0.3, 0.6), (0.4, 0.6)), ((-0.3, 0.1), (0.2, 0.1))),
    "G": (((0.4, 0.5), (-0.3, 0.6), (-0.4, -0.5), (0.4, -0.6), (0.4, 0.0), (0.1, 0.0)),),
    "J": (((0.3, 0.6), (0.3, -0.4), (0.0, -0.6), (-0.4, -0.4)),),
    "L": (((-0.3, 0.6), (-0.3, -0.6), (0.4, -0.6)),),
}
"""Strokes of the glyphs, polylines with x to the right and y upwards in the square [−1, 1]²."""
_NARROWEST, _WIDEST = 1e-4, 1e4  # of strokes, which are dots a width apart


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
    _positive = ("width",)

    def __post_init__(self) -> None:
        if self.shape not in GLYPHS:
            raise ArgumentError(f"shape={self.shape!r} is unknown; use one of {', '.join(GLYPHS)}")
        whole_number("size", self.size, 2)
        check_amount("width", self.width)
        if not _NARROWEST <= self.width <= _WIDEST:
            raise ArgumentError(
                f"width={self.width!r} must be from {_NARROWEST} to {_WIDEST:g}; strokes are about "
                "1 long"
            )
        for name, value in zip(("angle", "shift", "shift", "scale"), self._ranges(), strict=True):
            check_amount(name, value, zero=True)
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


def _dots(shape: str, spacing: float) -> Tensor:
    """Return (K, 2) dots along the strokes, at most `spacing` apart."""
    dots = []
    for stroke in GLYPHS[shape]:
        for start, end in itertools.pairwise(torch.tensor(stroke, dtype=torch.float64)):
            steps = math.ceil(float((end - start).norm()) / spacing)
            share = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
            dots.append(start + share[:, None] * (end - start))
    return torch.cat(dots)
