"""Labelled photos: shards, decoding, packing, and the embedded demo."""

from jvpsvd.data.demo import demo_photos, demo_shards
from jvpsvd.data.pack import Photo, pack, photos_by_class
from jvpsvd.data.photos import PHOTO_SUFFIXES, decode_photo
from jvpsvd.data.shards import Sample, find_shards, fingerprint, read_photos, walk

__all__ = [
    "PHOTO_SUFFIXES",
    "Photo",
    "Sample",
    "decode_photo",
    "demo_photos",
    "demo_shards",
    "find_shards",
    "fingerprint",
    "pack",
    "photos_by_class",
    "read_photos",
    "walk",
]
