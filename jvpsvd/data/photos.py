"""Photos as network inputs: bytes decoded by Pillow, resized, cropped and normalised."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from jvpsvd.errors import PhotoError
from jvpsvd.imports import require
from jvpsvd.networks import PhotoInput

require("jvpsvd.data", "survey", "PIL")
from PIL import Image, ImageOps, features  # noqa: E402

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_PLAIN_PIXELS = 1 << 24
_PIXELS_PER_BYTE = 2000
"""A blank 8-bit page takes a byte for 1000 pixels as PNG. A file with more pixels per byte is an
attack on memory."""
_STRIP_PIXELS = 1 << 18


def decode_photo(data: bytes, photo_input: PhotoInput) -> Tensor:
    """Return the input x of shape (1, 3, size, size), float32, of an encoded photo.

    The photo is turned upright (EXIF) and converted to RGB. Its shorter side is resized to
    `resize`, and the central square of `size` pixels is normalised channel by channel: (value /
    scale − mean) / std. Alpha is dropped. The first frame of an animation is used. 16 and 32 bits
    and floats are scaled to 8 bits. Pillow silently fills in what a damaged JPEG lost.

    Decoding takes at most 8 bytes of memory per pixel, plus the file.

    Raises:
        PhotoError: If the bytes are no photo of a supported format, are cut short, state more
            pixels than Pillow's limit against decompression bombs (179 million), or more than 16
            million that are 2000 times their bytes.

    >>> file = io.BytesIO()
    >>> Image.new("RGB", (40, 30), (255, 0, 0)).save(file, "PNG")
    >>> x = decode_photo(file.getvalue(), PhotoInput(size=8, resize=10, mean=(0, 0, 0)))
    >>> x.shape, round(float(x[0, 0, 0, 0] * 0.229), 4)
    (torch.Size([1, 3, 8, 8]), 1.0)
    """
    square = _decode_square(data, photo_input)
    values = np.asarray(square, dtype=np.float32)
    if photo_input.channels == "BGR":
        values = values[:, :, ::-1]
    mean, std = (np.asarray(v, dtype=np.float32) for v in (photo_input.mean, photo_input.std))
    normalised = (values / np.float32(photo_input.scale) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normalised.transpose(2, 0, 1))[None])


def _decode_square(data: bytes, photo_input: PhotoInput) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd EXIF blocks and of sizes up to its limit. Above the limit it
            # raises before it decodes.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=_formats())
            pixels = image.width * image.height
            if pixels > max(_PLAIN_PIXELS, _PIXELS_PER_BYTE * len(data)):
                raise ValueError(f"promise {pixels} pixels")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _square(_eight_bits(image), photo_input).convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins may raise anything
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        reason = "are not a photo" if "cannot identify" in first else f"do not decode ({first})"
        raise PhotoError(f"{len(data)} bytes that {reason}; replace the file") from error


def _formats() -> tuple[str, ...]:
    """Return the formats that are read, with AVIF if this Pillow supports it."""
    return (*_FORMATS, "AVIF") if features.check("avif") else _FORMATS


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return the image in L or RGB without alpha; wide values are scaled, not clipped.

    Grey images are converted to RGB later, when they are small, and nothing is copied without need.
    """
    if image.mode.startswith("I;16"):
        return _of_strips(image, lambda values: values >> 8)
    if image.mode in ("I", "F"):
        whites = (255.0, 65535.0, 2.0**31) if image.mode == "I" else (1.0, 255.0, 65535.0)
        scale = 255.0 / _white(image, whites)
        return _of_strips(image, lambda values: values.astype(np.float64) * scale)
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode in ("1", "LA") else "RGB")


def _of_strips(image: Image.Image, scaled: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """Return the image with a function applied to its values, a few rows at a time."""
    out = np.empty((image.height, image.width), np.uint8)
    for top, values in _strips(image):
        out[top : top + len(values)] = scaled(values).astype(np.uint8)
    return Image.fromarray(out)


def _strips(image: Image.Image) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        below = min(image.height, top + rows)
        yield top, np.asarray(image.crop((0, top, image.width, below)))


def _white(image: Image.Image, whites: Sequence[float]) -> float:
    """Return the smallest white level that no value exceeds; files do not state theirs."""
    ends = [(float(v.min()), float(v.max())) for _, v in _strips(image)]
    low, high = (float(pick(np.array(ends), initial=0.0)) for pick in (np.min, np.max))
    if not 0 <= low <= high <= whites[-1]:  # NaN included
        raise ValueError(f"holds values from {low:g} to {high:g}, with no white that is known")
    return next(w for w in whites if high <= w)


def _square(image: Image.Image, photo_input: PhotoInput) -> Image.Image:
    """Return the central square, resized in one step, so that nothing outside of it is computed."""
    width, height = image.size
    side = min(width, height) * min(1.0, photo_input.size / photo_input.resize)
    left, top = (width - side) / 2, (height - side) / 2
    return image.resize(
        (photo_input.size, photo_input.size),
        _FILTERS[photo_input.interpolation],
        box=(left, top, left + side, top + side),
    )
