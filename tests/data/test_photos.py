import io

import numpy as np
import pytest
import torch
from PIL import Image
from support.shards import encoded

from jvpsvd.data import decode_photo
from jvpsvd.errors import PhotoError
from jvpsvd.networks import PhotoInput

PLAIN = PhotoInput(size=16, resize=16, scale=1.0, mean=(0, 0, 0), std=(1, 1, 1))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"])
def test_every_format_becomes_a_batch_of_one(form):
    x = decode_photo(encoded(0, form), PhotoInput(size=16, resize=18))
    assert x.shape == (1, 3, 16, 16)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    assert float(x.std()) > 0


def test_normalisation_is_value_over_scale_minus_mean_over_std():
    data = saved(Image.new("RGB", (20, 20), (255, 127, 0)), "PNG")
    x = decode_photo(data, PhotoInput(size=16, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0)))
    expected = torch.tensor([1.0, (127 / 255 - 0.25) / 0.25, 0.0])
    torch.testing.assert_close(x[0, :, 3, 5], expected)


def test_bgr_reverses_channels():
    data = saved(Image.new("RGB", (20, 20), (10, 20, 30)), "PNG")
    bgr = PhotoInput(16, 16, 1.0, (0, 0, 0), (1, 1, 1), channels="BGR")
    assert decode_photo(data, bgr)[0, :, 0, 0].tolist() == [30, 20, 10]


def test_crop_is_the_middle_of_the_longer_side():
    pixels = np.zeros((16, 48, 3), dtype=np.uint8)
    pixels[:, 16:32] = 200
    x = decode_photo(saved(Image.fromarray(pixels), "PNG"), PLAIN)
    assert x.unique().tolist() == [200]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_modes_become_rgb(mode):
    grey = np.full((20, 20), 200, dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 256)
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    x = decode_photo(saved(image, "TIFF" if mode == "CMYK" else "PNG"), PLAIN)
    assert abs(float(x.mean()) - (255 if mode == "1" else 200)) < 60
    assert x.shape == (1, 3, 16, 16)


def test_exif_orientation_is_applied():
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    x = decode_photo(saved(Image.fromarray(pixels), "PNG", exif=exif), PLAIN)
    assert float(x[0, 0, 0, 0]) == 0
    assert float(x[0, 0, -1, 0]) == 255


@pytest.mark.parametrize("data", [b"", b"not a photo", encoded(1)[:200], encoded(1, "PNG")[:60]])
def test_broken_bytes_are_one_clear_error(data):
    with pytest.raises(PhotoError, match=f"^{len(data)} bytes that .*; replace the file$"):
        decode_photo(data, PLAIN)


def test_header_that_promises_too_many_pixels_is_refused_before_decoding():
    data = bytearray(encoded(0, "BMP"))
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    with pytest.raises(PhotoError, match=r"3600000000 pixels.* exceeds limit"):
        decode_photo(bytes(data), PLAIN)


def test_formats_outside_the_list_are_not_opened():
    with pytest.raises(PhotoError, match="not a photo"):
        decode_photo(saved(Image.new("RGB", (8, 8)), "PDF"), PLAIN)


def test_extreme_shapes_cost_no_more_than_others():
    x = decode_photo(saved(Image.new("RGB", (60_000, 1), (9, 9, 9)), "PNG"), PLAIN)
    assert x.shape == (1, 3, 16, 16)
    assert x.unique().tolist() == [9]
