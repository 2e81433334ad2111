"""Photos as network inputs: bytes decoded by Pillow, resized, cropped and normalised."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from jvpsvd.errors import PhotoError
from jvpsvd.networks import PhotoInput

PHOTO_SUFFIXES = ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff", "gif")
"""File endings that count as photos, in shards and in folders."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def decode_photo(data: bytes, photo_input: PhotoInput) -> Tensor:
    """Return the input x of shape (1, 3, size, size), float32, of an encoded photo.

    The photo is turned upright (EXIF) and converted to RGB. What would be the middle square of
    `size` pixels if the shorter side had `resize` becomes the input, normalised channel by channel:
    (value / scale − mean) / std. Alpha is dropped; of an animation the first frame is taken; 16 and
    32 bits and floats are scaled to 8 bits. Pillow fills in what a damaged JPEG lost without saying
    so.

    Raises:
        PhotoError: If the bytes are not a photo of a known format, are cut short, or promise more
            pixels than Pillow's limit against decompression bombs (179 million).

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), (255, 0, 0)).save(file, "PNG")
    >>> x = decode_photo(file.getvalue(), PhotoInput(size=8, resize=10, mean=(0, 0, 0)))
    >>> x.shape, round(float(x[0, 0, 0, 0] * 0.229), 4)
    (torch.Size([1, 3, 8, 8]), 1.0)
    """
    square = _square(_open(data), photo_input)
    values = np.asarray(square, dtype=np.float32)
    if photo_input.channels == "BGR":
        values = values[:, :, ::-1]
    mean, std = (np.asarray(v, dtype=np.float32) for v in (photo_input.mean, photo_input.std))
    normalised = (values / np.float32(photo_input.scale) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))[None])


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Odd EXIF blocks, and sizes up to Pillow's limit: above, it raises before it decodes.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            return _as_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # Pillow's plugins raise what the bytes make them raise
        first = (str(error).strip() or "no message").splitlines()[0]
        reason = "are not a photo" if "cannot identify" in first else f"do not decode ({first})"
        raise PhotoError(f"{len(data)} bytes that {reason}; replace the file") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, alpha dropped; Pillow clips wide values instead of scaling them."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        whites = (255.0, 65535.0, 2.0**31) if image.mode == "I" else (1.0, 255.0, 65535.0)
        image = Image.fromarray(_eight_bits(np.asarray(image).astype(np.float64), whites))
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, whites: Sequence[float]) -> np.ndarray:
    """Scale values to 0…255 by the least white that none is above: files do not say theirs."""
    low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
    if not 0 <= low <= high <= whites[-1]:  # NaN included
        raise ValueError(f"holds values from {low:g} to {high:g}, with no white that is known")
    white = next(w for w in whites if high <= w)
    return (values * (255.0 / white)).astype(np.uint8)


def _square(image: Image.Image, photo_input: PhotoInput) -> Image.Image:
    """Return the middle square, resized in one step: nothing outside it is ever computed."""
    width, height = image.size
    side = min(width, height) * min(1.0, photo_input.size / photo_input.resize)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize(
        (photo_input.size, photo_input.size),
        _FILTERS[photo_input.interpolation],
        box=(left, top, left + side, top + side),
    )
