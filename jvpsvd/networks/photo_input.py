"""How a photo becomes the input of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jvpsvd.arguments import shown
from jvpsvd.errors import ModelError


@dataclass(frozen=True)
class PhotoInput:
    """How a photo becomes the input of a network: (value / scale − mean) / std on a square crop.

    The shorter side is resized to `resize`, and the central `size` × `size` pixels are kept, in one
    step, without rounding in between. So pixels differ a little from those of torchvision's Resize
    and CenterCrop, and spectra with them: `jvpsvd.data.decode_photo` gives the x of a survey. A
    network of 32 × 32 pixels from -1 to 1 takes this:

    >>> PhotoInput(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)).shape
    (1, 3, 32, 32)
    """

    size: int = 224
    """Side of the crop, in pixels."""
    resize: int = 256
    """Length of the shorter side before cropping, in pixels."""
    scale: float = 255.0
    """Channel values 0…255 are divided by this before mean and std apply."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """One value per channel, in the order of `channels`."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """One value per channel, in the order of `channels`."""
    channels: str = "RGB"
    """"RGB" or "BGR"."""
    interpolation: str = "bilinear"
    """"bilinear" or "bicubic"."""

    def __post_init__(self) -> None:
        """Check the fields, and convert the channel values to floats.

        Raises:
            ModelError: On sizes below 1, a scale or std that is not positive, or an unknown name.
        """
        for name in ("mean", "std"):
            object.__setattr__(self, name, _three_numbers(name, getattr(self, name)))
        for name, kind, what in (
            ("size", int, "a whole number"),
            ("resize", int, "a whole number"),
            ("scale", int | float, "a number"),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool) or not value < math.inf:
                raise ModelError(f"PhotoInput {name}={shown(value)} must be {what}")
        if self.size < 1 or self.resize < 1:
            raise ModelError(f"PhotoInput size={self.size}, resize={self.resize} must be positive")
        if self.scale <= 0 or min(self.std) <= 0:
            raise ModelError(f"PhotoInput scale={self.scale}, std={self.std} must be positive")
        for value, known in (
            (self.channels, ("RGB", "BGR")),
            (self.interpolation, ("bilinear", "bicubic")),
        ):
            if not isinstance(value, str) or value not in known:
                raise ModelError(f"PhotoInput has {shown(value)}; use {' or '.join(known)}")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the network's input, a batch of one."""
        return (1, 3, self.size, self.size)


def _three_numbers(name: str, given: Any) -> tuple[float, float, float]:
    try:
        first, second, third = map(float, given)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ModelError(f"PhotoInput {name}={shown(given)} must hold three numbers") from error
    if not all(map(math.isfinite, (first, second, third))):
        raise ModelError(f"PhotoInput {name}={shown(given)} must hold three finite numbers")
    return first, second, third
