"""Photos and their right singular vectors as small PNG images, for as many as a page can hold."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open

from jvpsvd.data import Shard, decode_photo, fingerprint, read_photos
from jvpsvd.errors import PhotoError, ShardError
from jvpsvd.networks import PhotoInput
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.choice import choose_photos
from jvpsvd.report.values import Array, DepthValues, RunValues
from jvpsvd.survey.store.files import is_regular
from jvpsvd.survey.store.run_data import RunData

MAX_VECTORS = 8
MAX_PHOTOS = 24
_IMAGES = 900  # of a page: some 3 MB
_VECTOR_PIXELS, _PHOTO_PIXELS = 56, 112
_COLOURS = 48
# Share of the entries of a vector that may be brighter or darker than the scale.
_CLIPPED = 0.5


@dataclass(frozen=True)
class VectorImages:
    """v₁, v₂, … of a photo at a depth."""

    layer: str
    images: tuple[str, ...]
    """PNG data URIs."""
    s: tuple[float, ...]
    residuals: tuple[float, ...]
    converged: tuple[bool, ...]


@dataclass(frozen=True)
class PhotoImages:
    """A photo with its vectors."""

    key: str
    shard: str
    class_name: str
    photo: str | None
    """PNG data URI of the network's input; None where the shard is not at hand."""
    depths: tuple[VectorImages, ...]


@dataclass(frozen=True)
class Browser:
    """The photos that a page shows."""

    photos: tuple[PhotoImages, ...]
    total: int
    """Photos whose vectors could have been shown."""
    vectors: int
    """Vectors of each at each depth."""
    stored: bool
    """Whether the run stores vectors."""
    without_photo: str
    """Why photos are not shown beside their vectors; empty if all are."""


def browse(analysis: Analysis, shards: Sequence[Shard] = ()) -> Browser:
    """Return thumbnails of some photos of a run that stores vectors, the same ones at every call.

    A vector is scaled back to pixel values, channel by channel, averaged to thumbnails, and shown
    around grey: no change is grey, and each has a scale of its own.

    Args:
        analysis: The run.
        shards: The files of its photos; one that is absent or has other bytes is left out.

    Example: ``browse(analysis, find_shards("shards")).photos[0].depths[0].images``.
    """
    run, classes = analysis.run, analysis.classes
    identity = run.store.identity
    if not identity.vectors or identity.start_shape is not None:
        return Browser((), 0, 0, False, "")
    count = min(MAX_VECTORS, identity.k)
    solved = sorted({int(photo) for depth in run.depths for photo in depth.photo})
    shown_at_most = max(1, min(MAX_PHOTOS, _IMAGES // (1 + count * len(run.depths))))
    chosen = choose_photos(solved, run.samples, classes.of, shown_at_most)
    data = RunData(run.store, run.samples)
    photos, reason = _draw_photos(run, chosen, shards)
    shown = []
    for photo in chosen:
        sample = run.samples[photo]
        depths = []
        for depth in run.depths:
            file = data.vector_file(sample.shard, sample.key, depth.layer)
            found = _draw_vectors(file, depth, photo, count, identity.photo_input, identity.tol)
            if found is not None:
                depths.append(found)
        if depths:
            name = classes.names[classes.of[photo]]
            images = PhotoImages(sample.key, sample.shard, name, photos.get(photo), tuple(depths))
            shown.append(images)
    return Browser(tuple(shown), len(solved), count, True, reason)


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


def _draw_vectors(
    file: Path | None,
    depth: DepthValues,
    photo: int,
    count: int,
    photo_input: PhotoInput,
    tol: float,
) -> VectorImages | None:
    at = int(np.searchsorted(depth.photo, photo))
    if at == len(depth.photo) or depth.photo[at] != photo:
        return None
    if file is None or not is_regular(file):
        return None
    try:
        # Only the first rows are read: a file may hold hundreds of vectors.
        with safe_open(file, framework="np") as tensors:
            rows = tensors.get_slice("Vh")[:count]
    except (OSError, SafetensorError):
        return None
    if rows.shape != (min(count, depth.s.shape[1]), depth.shape[1]) or not np.isfinite(rows).all():
        return None
    s, residuals = depth.s[at, :count], depth.residuals[at, :count]
    return VectorImages(
        depth.layer,
        tuple(png_uri(_draw_vector(row, photo_input)) for row in rows),
        tuple(s.tolist()),
        tuple(residuals.tolist()),
        tuple((residuals <= tol * depth.s[at, 0]).tolist()),
    )


def _draw_vector(vector: Array, photo_input: PhotoInput) -> Array:
    """Return a vector as bytes around grey, in RGB."""
    std = np.array(photo_input.std)[:, None, None]
    square = vector.reshape(photo_input.shape[1:]).astype(np.float64) * std
    if photo_input.channels == "BGR":
        square = square[::-1]
    small = _average(square.transpose(1, 2, 0), _VECTOR_PIXELS)
    scale = float(np.percentile(np.abs(small), 100 - _CLIPPED)) or 1.0
    shown: Array = np.clip(127.5 + 127.5 * small / scale, 0, 255).round()
    return shown


def _average(image: Array, pixels: int) -> Array:
    """Return an image averaged down to a side of at most `pixels`."""
    side = image.shape[0]
    if side <= pixels:
        return image
    edges = np.linspace(0, side, pixels + 1).round().astype(np.int64)[:-1]
    sums = np.add.reduceat(np.add.reduceat(image, edges, axis=0), edges, axis=1)
    sizes = np.diff(np.append(edges, side))
    found: Array = sums / (sizes[:, None] * sizes)[:, :, None]
    return found


def _draw_photos(
    run: RunValues, chosen: Sequence[int], shards: Sequence[Shard]
) -> tuple[Mapping[int, str], str]:
    """Return inputs as PNG, and why some are not there."""
    identity = run.store.identity
    contents = dict(zip(identity.shards, identity.contents, strict=True))
    available = {shard.name: shard for shard in shards if _is_same(shard, contents)}
    photo_of = {(run.samples[p].shard, run.samples[p].key): p for p in chosen}
    found: dict[int, str] = {}
    for name in sorted({shard for shard, _ in photo_of} & available.keys()):
        samples = [run.samples[p] for (shard, _), p in photo_of.items() if shard == name]
        samples = [sample for sample in samples if not sample.problem]
        for sample, data in read_photos(available[name], samples):
            if data is not None:
                try:
                    pixels = _draw_photo(data, identity.photo_input)
                except PhotoError:
                    continue
                found[photo_of[sample.shard, sample.key]] = png_uri(pixels)
    missing = len(chosen) - len(found)
    reason = (
        f"{missing} of {len(chosen)} photos are not shown beside their vectors: their shards were "
        "not at hand. 'jvpsvd report RUN --shards SHARDS' shows them."
    )
    return found, reason if missing else ""


def _is_same(shard: Shard, contents: Mapping[str, str]) -> bool:
    try:
        return shard.name in contents and fingerprint(shard) == contents[shard.name]
    except ShardError:
        return False


def _draw_photo(data: bytes, photo_input: PhotoInput) -> Array:
    x = decode_photo(data, photo_input)[0].numpy().astype(np.float64)
    mean, std = (np.array(v)[:, None, None] for v in (photo_input.mean, photo_input.std))
    values = ((x * std + mean) * photo_input.scale).transpose(1, 2, 0)
    if photo_input.channels == "BGR":
        values = values[:, :, ::-1]
    shown: Array = np.clip(_average(values, _PHOTO_PIXELS), 0, 255).round()
    return shown
