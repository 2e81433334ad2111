"""Right singular vectors of photos as small PNG images, and what the left ones move."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.networks import PhotoInput
from jvpsvd.plot import around_grey
from jvpsvd.report.values import Array, DepthValues
from jvpsvd.survey import Spec
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.small_vectors import MAX_UNITS, PIXELS

_COLOURS = 48
_MOVED = 2  # units that are named


@dataclass(frozen=True)
class VectorImage:
    """One right singular vector."""

    index: int
    """From 1 on."""
    uri: str
    """PNG data URI."""
    s: float
    residual: float
    converged: bool
    moved: str
    """What its left vector moves most, in words; empty where that is not kept."""


@dataclass(frozen=True)
class DepthImages:
    """The vectors of a photo at a depth."""

    layer: str
    images: tuple[VectorImage, ...]


def read_vector_images(
    file: Path | None, depth: DepthValues, photo: int, indices: Sequence[int], identity: Identity
) -> DepthImages | None:
    """Return images of some vectors of a photo at a depth; None where they cannot be read.

    Args:
        file: Of the vectors, whole or small ones.
        depth: The rows.
        photo: Index in the manifest.
        indices: Which vectors, from 1 on; those that the depth has not are left out.
        identity: Of the run.
    """
    at = int(np.searchsorted(depth.photo, photo))
    if at == len(depth.photo) or depth.photo[at] != photo:
        return None
    if file is None or not is_regular(file):
        return None
    k = depth.s.shape[1]
    # A depth of fewer values has its own last one.
    here = sorted({min(index, k) for index in indices})
    try:
        pictures, left = _read(file, here, depth, identity)
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    if not np.isfinite(pictures).all():
        return None
    s, residuals = depth.s[at], depth.residuals[at]
    # A triplet behind one that may be missing has not converged, however small its residual is.
    small = residuals <= identity.tol * s[0]
    converged = small & (np.cumsum(small) <= depth.converged[at])
    if depth.layer != identity.layers[-1]:
        left = None
    return DepthImages(
        depth.layer,
        tuple(
            VectorImage(
                index,
                png_uri(shade_vector(picture, identity.photo_input)),
                float(s[index - 1]),
                float(residuals[index - 1]),
                bool(converged[index - 1]),
                "" if left is None else _name_moved(left[row], identity),
            )
            for row, (index, picture) in enumerate(zip(here, pictures, strict=True))
        ),
    )


def _read(
    file: Path, here: Sequence[int], depth: DepthValues, identity: Identity
) -> tuple[Array, Array | None]:
    """Return right vectors (N, C, side, side), and left ones (N, m) where they are few."""
    side = identity.photo_input.size
    with safe_open(file, framework="np") as tensors:
        if identity.small_vectors:
            stored = tensors.get_tensor("index").tolist()
            rows = [stored.index(index) for index in here]
            left = tensors.get_tensor("U")[rows] if "U" in tensors.keys() else None  # noqa: SIM118
            return tensors.get_tensor("Vh")[rows].astype(np.float64), left
        # Only the rows are read that are shown: a file may hold hundreds of vectors.
        slices = tensors.get_slice("Vh")
        if tuple(slices.get_shape()) != (depth.s.shape[1], depth.shape[1]):
            raise ValueError("vectors of another shape")
        Vh = np.concatenate([slices[index - 1 : index] for index in here])
        square = Vh.reshape(len(here), -1, side, side).astype(np.float64)
        pictures = np.stack([average(one.transpose(1, 2, 0), PIXELS) for one in square])
        left = None
        if depth.shape[0] <= MAX_UNITS:
            left = tensors.get_tensor("U")[:, [index - 1 for index in here]].T
        return pictures.transpose(0, 3, 1, 2) * math.sqrt(Vh.shape[1]), left


def _name_moved(left: Array, identity: Identity) -> str:
    """Return the units that a left vector moves most, by name if they are ILSVRC's classes."""
    names = ilsvrc_hierarchy()
    are_classes = identity.model == Spec.model and len(left) == len(names.classes)
    most = np.argsort(-np.abs(left.astype(np.float64)), kind="stable")[:_MOVED]
    words = []
    for unit in most:
        name = f"unit {unit}"
        if are_classes:
            name = names.name(names.classes[unit])
        words.append(f"{name} {'+' if left[unit] > 0 else '−'}")
    return ", ".join(words)


def shade_vector(picture: Array, photo_input: PhotoInput) -> Array:
    """Return a right vector (C, side, side) as bytes around grey, (side, side, 3) in RGB."""
    square = picture * np.array(photo_input.std)[:, None, None]
    if photo_input.channels == "BGR":
        square = square[::-1]
    shown: Array = (255 * around_grey(square)).round()
    return shown


def average(image: Array, pixels: int) -> Array:
    """Return an image (side, side, C) averaged down to a side of at most `pixels`."""
    side = image.shape[0]
    if side <= pixels:
        return image
    edges = np.linspace(0, side, pixels + 1).round().astype(np.int64)[:-1]
    sums = np.add.reduceat(np.add.reduceat(image, edges, axis=0), edges, axis=1)
    sizes = np.diff(np.append(edges, side))
    found: Array = sums / (sizes[:, None] * sizes)[:, :, None]
    return found


def png_uri(pixels: Array) -> str:
    """Return a (height, width, 3) image of bytes as a PNG data URI of few colours.

    >>> png_uri(np.zeros((2, 2, 3), dtype=np.uint8))[:22]
    'data:image/png;base64,'
    """
    image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8), "RGB")
    few = image.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    file = io.BytesIO()
    few.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
