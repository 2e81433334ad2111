"""The numbers behind the figures of the ImageNet examples, small enough to keep in results/.

No photos and no pictures of singular vectors, which show photos.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagenet_tables import Found
from scipy.spatial.distance import squareform

PICTURES = ("photo", "pictures")
ROUNDED = ("participation", "entropy", "radius")
"""What is drawn as a mean of many only, so that half precision will do."""


def keep_depths(kinds: dict[str, Found], file: Path) -> None:
    """Write what was found of each kind, depth by depth and photo by photo, stacked (.npz)."""
    arrays: dict[str, Any] = {}
    for kind, found in kinds.items():
        for depth, photos in found.items():
            for name in photos[0]:
                if name not in PICTURES:
                    stack = np.stack([photo[name] for photo in photos])
                    small = np.float16 if name in ROUNDED else np.float32
                    real = np.issubdtype(stack.dtype, np.floating)
                    arrays[f"{kind}/{depth}/{name}"] = stack.astype(small) if real else stack
    np.savez_compressed(file, **arrays)


def kept_depths(file: Path) -> dict[str, Found]:
    """Return what `keep_depths` wrote."""
    kinds: dict[str, Found] = {}
    with np.load(file) as stored:
        for path, stack in stored.items():
            kind, depth, name = path.split("/")
            photos = kinds.setdefault(kind, {}).setdefault(depth, [{} for _ in stack])
            for photo, value in zip(photos, stack, strict=True):
                exact = np.issubdtype(value.dtype, np.floating)
                photo[name] = value.astype(np.float64) if exact else value
    return kinds


def keep_classes(numbers: dict[str, Any], file: Path) -> None:
    """Write the numbers of all classes to five digits (.json)."""
    file.write_text(json.dumps(_rounded(numbers)) + "\n")


def condensed(distances: torch.Tensor) -> list[float]:
    """Return a distance matrix as SciPy's vector of its upper triangle.

    >>> condensed(torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
    [2.0]
    """
    vector: list[float] = squareform(distances.double().numpy(), checks=False).tolist()
    return vector


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
