"""Photos from anywhere: every mode keeps its range, and what cannot be read is one clear error."""

import io
import logging
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, features
from support.forks import Forked
from support.shards import encoded, write_tar

from jvpsvd.data import decode_photo, read_photos, walk
from jvpsvd.errors import PhotoError
from jvpsvd.networks import PhotoInput

PLAIN = PhotoInput(size=16, resize=16, scale=1.0, mean=(0, 0, 0), std=(1, 1, 1))
GREY = 128


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png(width, height, depth, colour, data, *chunks):
    """A PNG from its parts, for the depths that Pillow does not write."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *(chunk(*pair) for pair in chunks)]
    parts += [chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def refused(data):
    """The message of the PhotoError, which must be one short line."""
    with pytest.raises(PhotoError) as caught:
        decode_photo(data, PLAIN)
    message = str(caught.value)
    assert message.isprintable()
    assert 0 < len(message) < 500
    return message


def decoded_or_none(data, photo_input=PLAIN):
    """Return the input, checked for shape and range; None if the bytes are refused."""
    try:
        x = decode_photo(data, photo_input)
    except PhotoError as error:
        assert str(error).isprintable()  # noqa: PT017 -- either outcome will do
        return None
    assert x.shape == (1, 3, photo_input.size, photo_input.size)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    return x


def grey(mode):
    """A mid-grey image of a mode."""
    image = Image.new("RGB", (20, 20), (GREY,) * 3)
    if mode == "P with transparency":
        image = image.quantize(4)
        image.info["transparency"] = 3
        return image
    if mode == "LAB":
        return Image.new("LAB", (20, 20), (137, 128, 128))  # L* = 53.6
    return image.convert(mode)


def wide(dtype, value):
    return Image.fromarray(np.full((20, 20), value, dtype))


row16 = b"\0" + b"\x80\x00" * 20
row16_rgb = b"\0" + b"\x80\x00" * 60
row16_la = b"\0" + b"\x80\x00\xff\xff" * 20
ordinary = {
    "1 PNG": saved(grey("1"), "PNG"),
    "L PNG": saved(grey("L"), "PNG"),
    "LA PNG": saved(grey("LA"), "PNG"),
    "P PNG": saved(grey("P"), "PNG"),
    "P PNG, transparency": saved(grey("P with transparency"), "PNG", transparency=3),
    "P PNG, every alpha": saved(grey("P with transparency"), "PNG", transparency=b"\xff\x80\0\0"),
    "P GIF, transparency": saved(grey("P with transparency"), "GIF", transparency=3),
    "RGB PNG": saved(grey("RGB"), "PNG"),
    "RGBA PNG": saved(grey("RGBA"), "PNG"),
    "RGBA WEBP": saved(grey("RGBA"), "WEBP", lossless=True),
    "L JPEG": saved(grey("L"), "JPEG"),
    "CMYK JPEG": saved(grey("CMYK"), "JPEG"),
    "YCbCr JPEG": saved(grey("YCbCr"), "JPEG"),
    "CMYK TIFF": saved(grey("CMYK"), "TIFF"),
    "YCbCr TIFF": saved(grey("YCbCr"), "TIFF"),
    "I;16 PNG": saved(wide(np.uint16, 0x8000), "PNG"),
    "I;16 TIFF": saved(wide(np.uint16, 0x8000), "TIFF"),
    "I;16B TIFF": saved(wide(">u2", 0x8000), "TIFF"),
    "16-bit L PNG, transparency": png(20, 20, 16, 0, row16 * 20, (b"tRNS", b"\x12\x34")),
    "16-bit LA PNG": png(20, 20, 16, 4, row16_la * 20),
    "16-bit RGB PNG": png(20, 20, 16, 2, row16_rgb * 20),
    "16-bit PGM": b"P5 20 20 65535\n" + b"\x80\x00" * 400,
    "16-bit PPM": b"P6 20 20 65535\n" + b"\x80\x00" * 1200,
    "10-bit PGM": b"P5 20 20 1023\n" + b"\x02\x00" * 400,
    "text PGM": b"P2 20 20 15\n" + b"7 8 " * 200,
    "4-bit L PNG": png(20, 20, 4, 0, (b"\0" + b"\x88" * 10) * 20),
    "2-bit L PNG": png(20, 20, 2, 0, (b"\0" + b"\x99" * 5) * 20),
}


@pytest.mark.parametrize("name", ordinary)
def test_mid_grey_is_mid_grey_in_every_mode(name):
    x = decode_photo(ordinary[name], PLAIN)
    assert abs(float(x.mean()) - GREY) < 12
    assert float(x.mean(dim=(0, 2, 3)).std()) < 3


@pytest.mark.parametrize("name", ["PA", "LAB"])
def test_rare_modes_are_mid_grey_or_refused(name):
    x = decoded_or_none(saved(grey(name), "TIFF"))
    assert x is None or abs(float(x.mean()) - GREY) < 12


RAMP = np.tile(np.linspace(0, 1, 16), (16, 1))
RANGES = {
    "uint16": saved(Image.fromarray((RAMP * 65535).astype(np.uint16)), "TIFF"),
    "int32 to 2**8": saved(Image.fromarray((RAMP * 255).astype(np.int32)), "TIFF"),
    "int32 to 2**16": saved(Image.fromarray((RAMP * 65535).astype(np.int32)), "TIFF"),
    "int32 to 2**31": saved(Image.fromarray((RAMP * (2**31 - 1)).astype(np.int32)), "TIFF"),
    "int32 below 0": saved(Image.fromarray(((RAMP - 0.5) * 2e9).astype(np.int32)), "TIFF"),
    "uint16 PNG": saved(Image.fromarray((RAMP * 65535).astype(np.uint16)), "PNG"),
    "float to 1": saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
    "float to 255": saved(Image.fromarray((RAMP * 255).astype(np.float32)), "TIFF"),
    "float to 65535": saved(Image.fromarray((RAMP * 65535).astype(np.float32)), "TIFF"),
    "float to 1e30": saved(Image.fromarray((RAMP * 1e30).astype(np.float32)), "TIFF"),
    "PFM": b"Pf\n16 16\n-1.0\n" + RAMP.astype("<f4").tobytes(),
}


@pytest.mark.parametrize("name", RANGES)
def test_wide_ranges_are_scaled_or_refused_never_clipped(name):
    """The brightness of an integer or a float may be undefined; then the photo is refused."""
    x = decoded_or_none(RANGES[name])
    if name in ("uint16", "uint16 PNG"):  # files whose range is fixed by their format
        assert x is not None
    if x is None:
        return
    assert 0 <= float(x.min()) <= float(x.max()) <= 255
    profile = x[0, 0].mean(dim=0)
    assert (profile.diff() > 0).all(), profile.tolist()
    assert float(profile[-1] - profile[0]) > 100


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_never_leave(value):
    ramp = RAMP.astype(np.float32)
    ramp[5, 5] = value
    decoded_or_none(saved(Image.fromarray(ramp), "TIFF"))


# EXIF: which visual side the first stored row and the first stored column are.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", SIDES)
def test_every_orientation_becomes_upright(orientation, form):
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = (240, 20, 20), (20, 240, 20), (20, 20, 240)
    row, column = SIDES[orientation]
    stored = upright.transpose(1, 0, 2) if row in ("left", "right") else upright
    stored = stored[::-1] if row in ("right", "bottom") else stored
    stored = stored[:, ::-1] if column in ("right", "bottom") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    data = saved(Image.fromarray(stored), form, exif=exif, **options.get(form, {}))
    x = decode_photo(data, PLAIN)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(x, upright, atol=8)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_there_are_not_leave_the_photo_as_it_is(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.open(io.BytesIO(encoded(3, "PNG")))
    x = decode_photo(saved(image, "PNG", exif=exif), PLAIN)
    torch.testing.assert_close(x, decode_photo(saved(image, "PNG"), PLAIN))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\xff" * 60_000])
def test_odd_exif_blocks_cost_no_photo(exif):
    image = Image.open(io.BytesIO(encoded(3)))
    assert decoded_or_none(saved(image, "JPEG", exif=exif)) is not None


LARGE = Image.open(io.BytesIO(encoded(0, "PNG", (200, 160)))).resize((800, 640))


def test_progressive_jpeg_is_the_same_photo():
    plain, progressive = (saved(LARGE, "JPEG", progressive=p) for p in (False, True))
    difference = decode_photo(plain, PLAIN) - decode_photo(progressive, PLAIN)
    assert float(difference.abs().max()) <= 2


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_truncated_jpeg_is_refused_not_filled_with_grey(share, progressive):
    data = saved(LARGE, "JPEG", progressive=progressive)
    refused(data[: int(share * len(data))])


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_other_truncated_formats_are_refused(share, form):
    data = saved(LARGE, form)
    refused(data[: int(share * len(data))])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(form):
    first, *rest = (Image.new("RGB", (20, 20), (value,) * 3) for value in (200, 10, 90))
    lossless = {"lossless": True} if form == "WEBP" else {}
    data = saved(first, form, save_all=True, append_images=rest, **lossless)
    assert abs(float(decode_photo(data, PLAIN).mean()) - 200) < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (2, 3)])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_odd_sizes(size, form):
    x = decode_photo(saved(Image.new("RGB", size, (GREY,) * 3), form), PLAIN)
    assert abs(float(x.mean()) - GREY) < 3


SOF = encoded(0).index(b"\xff\xc0") + 5


def patched(data, position, new):
    return data[:position] + new + data[position + len(new) :]


GIF, TIFF = encoded(0, "GIF"), encoded(0, "TIFF")


def tiff_sized(side):
    """The TIFF with its tags ImageWidth and ImageLength replaced."""
    data = TIFF
    for tag in (256, 257):
        position = next(
            i
            for i in range(len(TIFF))
            if TIFF[i : i + 2] == struct.pack("<H", tag)
            and TIFF[i + 2] in (3, 4)
            and TIFF[i + 4 : i + 8] == b"\1\0\0\0"
        )
        data = patched(data, position + 2, struct.pack("<HII", 4, 1, side))
    return data


BOMBS = {
    "PNG": png(60_000, 60_000, 8, 2, bytes(1000)),
    "JPEG": patched(encoded(0), SOF, struct.pack(">HH", 60_000, 60_000)),
    "GIF": patched(GIF, 6, struct.pack("<HH", 60_000, 60_000)),
    "BMP": patched(encoded(0, "BMP"), 18, struct.pack("<II", 60_000, 60_000)),
    "PPM": b"P6 60000 60000 255\n" + bytes(1000),
    "TIFF": tiff_sized(60_000),
    "PNG, most": png(2**31 - 1, 2**31 - 1, 8, 2, bytes(1000)),
    "PPM, more": b"P6 " + b"9" * 9 + b" " + b"9" * 9 + b" 255\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_sizes_that_no_photo_has_are_refused_by_their_header(name):
    assert "pixels" in refused(BOMBS[name]) or name == "PPM, more"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        png(0, 0, 8, 2, b""),
        png(20, 0, 8, 2, b""),
        b"P6 0 0 255\n",
        b"P6 -3 5 255\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nquit\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        patched(encoded(0, "PNG"), 0, b"\n\n\x1b[2J\n"),
    ],
)
def test_bytes_that_are_no_photo_are_one_line(data):
    refused(data)


def test_texts_that_inflate_are_no_way_around_the_limit():
    bomb = (b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))
    decoded_or_none(png(20, 20, 16, 0, row16 * 20, bomb))
    profile = (b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000_000)))
    decoded_or_none(png(20, 20, 16, 0, row16 * 20, profile))


GOOD = [encoded(0, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF")]
LZW = saved(Image.open(io.BytesIO(GOOD[1])), "TIFF", compression="tiff_lzw")
GOOD += list(ordinary.values()) + list(RANGES.values())
SCALED = PhotoInput(size=8, resize=10)


@st.composite
def mutated(draw):
    data = bytearray(draw(st.sampled_from([*GOOD, LZW])))
    for _ in range(draw(st.integers(1, 8))):
        # Most of what can go wrong is in the header.
        position = draw(st.one_of(st.integers(0, 64), st.integers(0, len(data)))) % max(
            1, len(data)
        )
        kind = draw(st.sampled_from(["set", "set", "cut", "insert", "delete", "repeat"]))
        if kind == "set":
            data[position : position + 1] = bytes([draw(st.integers(0, 255))])
        elif kind == "cut":
            del data[max(20, position) :]
        elif kind == "insert":
            data[position:position] = draw(st.binary(max_size=12))
        elif kind == "delete":
            del data[position : position + draw(st.integers(1, 12))]
        else:
            data[position:position] = data[position : position + 40]
    return bytes(data)


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=400),
        st.sampled_from(GOOD).flatmap(
            lambda good: st.binary(max_size=200).map(lambda rest: good[:12] + rest)
        ),
    )
)
@example(b"P6 1 1 0\n\0\0\0")
@example(b"P2 1 1 255\n999999999999999999999999")
def test_any_bytes_are_an_input_or_a_photo_error(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded_or_none(data, SCALED)


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_any_change_of_a_photo_is_an_input_or_a_photo_error(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded_or_none(data, SCALED)


def test_damaged_photos_print_and_log_nothing(capfd, caplog):
    """Nothing is printed, except for TIFFs: Pillow logs their errors, and libtiff writes to
    stderr."""
    random = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        for data in (good for good in GOOD if good[:2] not in (b"II", b"MM")):
            for _ in range(4):
                changed = bytearray(data)
                for position in random.integers(0, len(data), 6):
                    changed[position] = random.integers(0, 256)
                decoded_or_none(bytes(changed[: random.integers(len(data) // 2, len(data))]))
                decoded_or_none(bytes(changed))
    assert caplog.records == []
    assert "".join(capfd.readouterr()) == ""


def bilevel(side):
    """A blank page, coded by runs: thousands of pixels to a byte."""
    return saved(Image.new("1", (side, side), 1), "TIFF", compression="group4")


def test_pixels_that_no_file_of_its_size_holds_are_refused_by_the_header():
    data = bilevel(5000)
    assert len(data) < 5000
    assert "promise 25000000 pixels" in refused(data)
    assert decoded_or_none(bilevel(4000)) is not None  # no more pixels than a camera has
    blank = saved(Image.new("L", (5000, 5000), GREY), "PNG")
    assert abs(float(decode_photo(blank, PLAIN).mean()) - GREY) < 1


MEASURED = """
import re, sys
from pathlib import Path
from jvpsvd.data import decode_photo
from jvpsvd.networks import PhotoInput

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

data = Path(sys.argv[1]).read_bytes()
before = peak()
decode_photo(data, PhotoInput())
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
@pytest.mark.parametrize("mode", ["F", "I", "RGB", "LA"])
def test_a_pixel_takes_few_bytes_while_it_is_decoded(mode, tmp_path):
    """A float pixel once took 24 bytes: a copy in doubles, and a scaled copy."""
    side = 3000
    kind = {"format": "PNG"} if mode == "LA" else {"format": "TIFF", "compression": "tiff_lzw"}
    Image.new(mode, (side, side)).save(tmp_path / "photo", **kind)
    process = Forked(MEASURED, str(tmp_path / "photo"), folder=tmp_path)
    taken, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    assert 4 * side**2 < int(taken) < 9 * side**2


@pytest.mark.parametrize("form", ["JPEG", "AVIF"])
def test_endings_of_one_format_are_photos_of_it(form, tmp_path):
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    data = encoded(0, form, (64, 64))
    endings = {"JPEG": ("jpg", "jpeg", "jpe", "jfif"), "AVIF": ("avif",)}[form]
    shard = write_tar(tmp_path / "s.tar", [(f"{i}.{e}", data) for i, e in enumerate(endings)])
    samples = walk(shard)
    assert [s.problem for s in samples] == [""] * len(endings)
    for _, photo in read_photos(shard, samples):
        assert decoded_or_none(photo) is not None
