"""Which files are photos, by their names."""

from __future__ import annotations

PHOTO_SUFFIXES = (
    *("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif", "jpe", "jfif", "avif"),
)
"""File endings that count as photos, in shards and in folders."""
