"""Photos and their right singular vectors as small PNG images, for as many as a page can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jvpsvd.data import Shard, decode_photo, fingerprint, read_photos
from jvpsvd.errors import PhotoError, ShardError
from jvpsvd.networks import PhotoInput
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.choice import choose_photos
from jvpsvd.report.values import Array, RunValues
from jvpsvd.report.vector_images import DepthImages, average, png_uri, read_vector_images
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.run_data import RunData
from jvpsvd.survey.store.small_vectors import chosen_indices

MAX_VECTORS = 6
MAX_PHOTOS = 24
_IMAGES = 700  # of a page: some 4 MB
_PHOTO_PIXELS = 112


@dataclass(frozen=True)
class PhotoImages:
    """A photo with its vectors."""

    key: str
    class_name: str
    """Empty where no photo of the run has a class."""
    photo: str | None
    """PNG data URI of the network's input; None where the shard is not at hand, or was changed."""
    depths: tuple[DepthImages, ...]


@dataclass(frozen=True)
class Thumbnails:
    """The photos that a page shows."""

    photos: tuple[PhotoImages, ...]
    total: int
    """Photos whose vectors could have been shown."""
    indices: tuple[int, ...]
    """Which vectors of each at each depth, from 1 on."""
    without_photo: str
    """Why photos are not shown beside their vectors; empty if all are."""

    @property
    def with_photo(self) -> bool:
        """Whether any photo is shown."""
        return any(one.photo for one in self.photos)

    @property
    def moved(self) -> bool:
        """Whether any image says what its left vector moves."""
        return any(i.moved for one in self.photos for depth in one.depths for i in depth.images)


NOTHING = Thumbnails((), 0, (), "")
"""What a run without vectors of photos shows."""


def make_thumbnails(analysis: Analysis, shards: Sequence[Shard] = ()) -> Thumbnails:
    """Return thumbnails of some photos of a run that stores vectors, the same ones at every call.

    A vector is scaled back to pixel values, channel by channel, averaged to thumbnails, and shown
    around grey: no change is grey, and each has a scale of its own.

    Args:
        analysis: The run.
        shards: The files of its photos; one that is absent or has other bytes is left out.

    Example: ``make_thumbnails(analysis, find_shards("shards")).photos[0].depths[0].images``.
    """
    run, classes = analysis.run, analysis.classes
    identity = run.store.identity
    if not identity.has_vector_files or identity.start_shape is not None:
        return NOTHING
    indices = tuple(chosen_indices(run.k, identity.small_vectors or MAX_VECTORS - 1))[:MAX_VECTORS]
    solved = sorted({int(photo) for depth in run.depths for photo in depth.photo})
    shown_at_most = max(1, min(MAX_PHOTOS, _IMAGES // (1 + len(indices) * len(run.depths))))
    chosen = choose_photos(solved, run.samples, classes.of, shown_at_most)
    data = RunData(run.store, run.samples)
    photos, reason = _draw_photos(run, chosen, shards)
    named = classes.keys != ((None, None),)
    shown = []
    for photo in chosen:
        sample = run.samples[photo]
        depths = []
        for depth in run.depths:
            file = data.vector_file(sample.shard, sample.key, depth.layer)
            found = read_vector_images(file, depth, photo, indices, identity)
            if found is not None:
                depths.append(found)
        if depths:
            name = classes.names[classes.of[photo]] if named else ""
            shown.append(PhotoImages(sample.key, name, photos.get(photo), tuple(depths)))
    return Thumbnails(tuple(shown), len(solved), indices, reason)


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
            stored = run.checksums.get(photo_of[sample.shard, sample.key])
            # Shards are told apart by their first mebibyte, photos by all of their bytes.
            if data is not None and stored in (None, checksum_bytes(data)):
                try:
                    pixels = _draw_photo(data, identity.photo_input)
                except PhotoError:
                    continue
                found[photo_of[sample.shard, sample.key]] = png_uri(pixels)
    missing = len(chosen) - len(found)
    reason = (
        f"{missing} of {len(chosen)} photos are not shown beside their vectors: their shards were "
        "not at hand, or hold other bytes. 'jvpsvd report RUN --shards SHARDS' shows them."
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
    shown: Array = np.clip(average(values, _PHOTO_PIXELS), 0, 255).round()
    return shown
