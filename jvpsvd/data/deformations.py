"""Tangents of continuous deformations of an image: its derivatives by small deformations.

An image I that moves along a vector field ξ changes by ∂I/∂ε = −ξ · ∇I (Simard, LeCun, Denker &
Victorri, 1998). Pixels have no derivative, so the gradient is that of a slightly blurred image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from jvpsvd.errors import ArgumentError

BLUR = 0.9
"""Standard deviation of the blur, in pixels."""

DEFORMATIONS = (
    "shift right",
    "shift down",
    "rotation",
    "scaling",
    "stretch",
    "shear",
    "thickness",
)
"""Names of the tangents, in their order."""


def deformation_tangents(images: Tensor, blur: float = BLUR) -> Tensor:
    """Return the tangents of every image: its derivative at the start of each deformation.

    With x to the right and y down from the middle of the image, the fields ξ are (1, 0), (0, 1),
    rotation (y, −x), scaling (x, y), stretch (x, −y) and shear (y, x); thickness is |∇I|, the
    change under dilation of the strokes. They are not normalised.

    Args:
        images: (N, side²) or (N, side, side), square, row by row.
        blur: Standard deviation of the blur, in pixels.

    Returns:
        (N, 7, side²), in the order of `DEFORMATIONS`.

    Raises:
        ArgumentError: If the images are not square, or the blur is not positive.

    >>> import torch
    >>> spot = torch.zeros(1, 9, 9)
    >>> spot[0, 4, 4] = 1
    >>> tangents = deformation_tangents(spot)
    >>> tangents.shape
    torch.Size([1, 7, 81])
    >>> right = tangents[0, 0].reshape(9, 9)
    >>> bool(right[4, 5] > 0 > right[4, 3])  # the spot appears on its right and goes on its left
    True
    """
    side = math.isqrt(images.shape[-1]) if images.ndim == 2 else images.shape[-1]
    if images.ndim not in (2, 3) or math.prod(images.shape[1:]) != side * side:
        raise ArgumentError(f"images {tuple(images.shape)} are not square; give (N, side, side)")
    if not blur > 0:
        raise ArgumentError(f"blur={blur} must be positive: pixels alone have no derivative")
    pixels = images.detach().cpu().double().reshape(-1, side, side).numpy()
    down, right = (
        ndimage.gaussian_filter(pixels, (0, blur, blur), order=(0, *order), mode="constant")
        for order in ((1, 0), (0, 1))
    )
    position = np.arange(side) - (side - 1) / 2
    x, y = position[None, :], position[:, None]
    one = np.ones((side, side))
    fields = ((one, 0 * one), (0 * one, one), (y, -x), (x, y), (x, -y), (y, x))
    tangents = [-(horizontal * right + vertical * down) for horizontal, vertical in fields]
    tangents.append(np.hypot(right, down))
    stacked = np.stack(tangents, axis=1).reshape(len(pixels), len(DEFORMATIONS), side * side)
    return torch.from_numpy(stacked).to(images.dtype)
