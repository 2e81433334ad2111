"""Small copies of a few singular vectors: enough to look at, at a hundredth of the size."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from jvpsvd.survey.spec.identity import Identity

PIXELS = 75
"""Side to which right vectors of photos are averaged."""
MAX_UNITS = 10_000
"""Left vectors are kept at depths of at most so many units, such as logits."""


def chosen_indices(k: int, count: int) -> list[int]:
    """Return the indices of which copies are kept: the first ones, and the last.

    >>> chosen_indices(50, 3), chosen_indices(2, 3)
    ([1, 2, 3, 50], [1, 2])
    """
    return [*range(1, min(count, k) + 1), *([k] if k > count else [])]


def small_copies(U: Tensor, s: Tensor, Vh: Tensor, identity: Identity) -> dict[str, Tensor]:
    """Return what the file of a row keeps of U (m, k), s and Vh (k, n).

    These are s, the indices, and their rows of Vh and, where these are short, of Uᵀ.
    Vectors are float16, and multiplied by the root of their length, so that entries are near 1. A
    right vector of a photo is averaged to `PIXELS`, channel by channel.
    """
    index = chosen_indices(len(s), identity.small_vectors)
    rows = torch.tensor(index) - 1
    pictures = Vh[rows] * math.sqrt(Vh.shape[1])
    if identity.start_shape is None:
        square = pictures.reshape(len(index), *identity.photo_input.shape[1:])
        side = min(PIXELS, square.shape[-1])
        pictures = torch.nn.functional.adaptive_avg_pool2d(square, side)
    kept = {"s": s, "index": torch.tensor(index), "Vh": pictures.half()}
    if len(U) <= MAX_UNITS:
        kept["U"] = (U.mT[rows] * math.sqrt(len(U))).half()
    return {name: tensor.contiguous() for name, tensor in kept.items()}


def expected_shapes(identity: Identity, k: int, units: int) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of what `small_copies` keeps of a row with k values."""
    count = len(chosen_indices(k, identity.small_vectors))
    shape: tuple[int, ...] = (identity.columns,)
    if identity.start_shape is None:
        channels, side = identity.photo_input.shape[1], min(PIXELS, identity.photo_input.size)
        shape = (channels, side, side)
    found = {"s": (k,), "index": (count,), "Vh": (count, *shape)}
    return found | ({"U": (count, units)} if units <= MAX_UNITS else {})
