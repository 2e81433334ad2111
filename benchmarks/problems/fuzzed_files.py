"""Files that break readers: valid ones with changes to their structure, and noise.

Each maker takes a `random.Random` and returns bytes; `parts.fuzz` gives them to the readers.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image, features

Maker = Callable[[Random], bytes]

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 511, 512, 65535, 1 << 20, (1 << 31) - 1, 1 << 31)
NUMBERS += ((1 << 32) - 1, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS = ("", "0", "-1", "-512", "none", "nan", "1e999", "0,1", "a,b", "9" * 400, "9" * 5000, "\0")
TEXTS += (str(1 << 40), str(1 << 62), str(1 << 70), "0" * 300, " 7 ", "0x10", "１", "\ud800")


def noise(random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 7, 64, 511, 512, 1024, random.randrange(4096))))


def mutate(data: bytes, random: Random, largest_count: int = 8) -> bytes:
    """Return the bytes after a few changes, most of them where headers are."""
    out = bytearray(data)
    for _ in range(random.randint(1, largest_count)):
        if not out:
            return noise(random)
        span = random.choice((16, 64, 600, len(out)))
        offset = random.randrange(min(span, len(out)))
        length = random.choice((1, 2, 4, 8, 40, 512))
        kind = random.randrange(9)
        if kind < 2:
            out[offset] ^= 1 << random.randrange(8)
        elif kind == 2:
            out[offset : offset + length] = random.randbytes(length)
        elif kind == 3:
            del out[random.randrange(len(out)) :]
        elif kind == 4:
            out[offset:offset] = random.randbytes(length)
        elif kind == 5:
            del out[offset : offset + length]
        elif kind == 6:
            out[offset:offset] = out[offset : offset + length * random.choice((1, 20))]
        elif kind == 7:
            out[offset : offset + length] = bytes(length)
        else:
            order, form = random.choice("<>"), random.choice("HIQ")
            value = random.choice(NUMBERS) % (1 << 8 * struct.calcsize(form))
            packed = struct.pack(order + form, value)
            out[offset : offset + len(packed)] = packed
    return bytes(out)


def text(random: Random) -> str:
    return random.choice(TEXTS)


# Photos.


@cache
def photos() -> tuple[bytes, ...]:
    """Return small photos in all formats, modes and compressions that Pillow writes."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms = ["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF"]
    forms += ["AVIF"] if features.check("avif") else []
    wanted: list[tuple[str, str, dict[str, Any]]] = [(form, "RGB", {}) for form in forms]
    wanted += [("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")]
    wanted += [("TIFF", mode, {}) for mode in ("1", "CMYK", "I", "F", "LAB", "YCbCr")]
    tiffs = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    wanted += [("TIFF", "RGB", {"compression": name}) for name in tiffs]
    wanted += [("TIFF", "1", {"compression": "group4"}), ("JPEG", "CMYK", {})]
    wanted += [("JPEG", "RGB", {"progressive": True}), ("JPEG", "RGB", {"exif": exif})]
    wanted += [("GIF", "P", {"save_all": True, "append_images": [image.convert("P")]})]
    found = []
    for form, mode, options in wanted:
        other = Image.new("LAB", image.size) if mode == "LAB" else image.convert("L")
        file = io.BytesIO()
        (other if mode in ("LAB", "L") else other.convert(mode) if mode != "RGB" else image).save(
            file, form, **options
        )
        found.append(file.getvalue())
    return tuple(found)


def photo(random: Random) -> bytes:
    data = random.choice(photos())
    if data.startswith(b"\x89PNG") and random.random() < 0.7:
        return _png(data, random)
    return mutate(data, random)


def _png(data: bytes, random: Random) -> bytes:
    """Return a PNG with changed chunks and right checksums."""
    out, at = bytearray(data[:8]), 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if random.random() < 0.4:
            body = mutate(body, random, 2)
        if random.random() < 0.1:
            kind = random.choice((b"zTXt", b"iCCP", b"tRNS", b"PLTE", b"acTL", b"fdAT", b"eXIf"))
        chunk = kind + body
        copy = struct.pack(">I", len(body)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        out += copy * random.choice((1, 1, 1, 1, 2, 0))
        at += size + 12
    return bytes(out)


# Shards.

_KINDS = (*b"0123456789", *b"SLKxgDMNVX\0Z")
_NAMES = (
    "a",
    "b",
    "a",
    "n01443537_1",
    "../../c",
    "/d",
    "é日本",
    "a\nb",
    ".h",
    "__MACOSX/._a",
    "x.y",
)
_ENDINGS = (".jpg", ".jpg", ".cls", ".cls", ".json", ".png", ".JPEG", ".input.jpg", "", ".pyd", "/")
_PAX = ("GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major", "GNU.sparse.minor", "size", "path")
_PAX += ("GNU.sparse.realsize", "GNU.sparse.name", "GNU.sparse.offset", "GNU.sparse.numbytes")
_PAX += (
    "GNU.sparse.numblocks",
    "linkpath",
    "hdrcharset",
    "mtime",
    "uid",
    "comment",
    "SCHILY.xattr",
)
_RECORDS = (
    b"",
    b"{}",
    b'{"wnid": "n01443537"}',
    b"\xef\xbb\xbf{}",
    b"[" * 3000,
    b"7",
    b"{",
    b"\xff",
)


def shard(random: Random) -> bytes:
    """Return a tar of odd members; often its bytes are changed and its checksums set right."""
    parts = [_member(random) for _ in range(random.randint(0, 6))]
    if parts and random.random() < 0.2:
        parts.append(random.choice(parts))
    ends = (bytes(1024), bytes(1024), bytes(10240), bytes(40960), b"", bytes(100), b"x" * 700)
    data = b"".join(parts) + random.choice(ends)
    if random.random() < 0.5:
        data = mutate(data, random)
        if random.random() < 0.7:
            data = _with_checksums(data)
    if random.random() < 0.03:
        data = gzip.compress(data, mtime=0)
    return data


def _member(random: Random) -> bytes:
    name = random.choice(_NAMES) + random.choice(_ENDINGS)
    if random.random() < 0.05:
        name = name * random.choice((30, 300, 3000))
    if ".cls" in name:
        data = text(random).encode(errors="surrogatepass")
    elif ".json" in name:
        data = random.choice(_RECORDS)
    else:
        data = random.choice((photos()[0], b"", b"x" * random.randrange(1500)))
    info = tarfile.TarInfo(name)
    info.size = len(data)
    if random.random() < 0.3:
        info.type = bytes([random.choice(_KINDS)])
        info.linkname = random.choice(_NAMES) + ".jpg"
    if random.random() < 0.15:
        info.size = random.choice((-1, -512, 1, 511, 513, 1 << 33, 1 << 62, -(1 << 62)))
    if random.random() < 0.3:
        chosen = random.sample(_PAX, random.randint(1, 4))
        info.pax_headers = {key: text(random) for key in chosen}
    form = random.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    try:
        head = bytearray(info.tobuf(form, "utf-8", "surrogateescape"))
    except (ValueError, UnicodeEncodeError):  # some formats cannot store it
        head = bytearray(tarfile.TarInfo("a.jpg").tobuf())
    if info.type == b"S" and random.random() < 0.5:
        head[-512:][386:410] = b"%011o\0%011o\0" % (0, 512)
        head[-512 + 482] = random.randrange(2)
    return _with_checksums(bytes(head)) + data + bytes(-len(data) % 512)


def _with_checksums(data: bytes) -> bytes:
    """Return the tar with the checksum of every block that looks like a header set right."""
    out = bytearray(data)
    for at in range(0, len(out) - 511, 512):
        if out[at + 257 : at + 262] == b"ustar":
            out[at + 148 : at + 156] = b" " * 8
            out[at + 148 : at + 156] = b"%06o\0 " % sum(out[at : at + 512])
    return bytes(out)


# Digits.


def idx(random: Random) -> bytes:
    """Return an idx file of labels, or almost one."""
    data = struct.pack(">II", 0x801, 10_000) + random.randbytes(random.choice((0, 100, 10_000)))
    return mutate(data, random) if random.random() < 0.7 else data


def idx_gz(random: Random) -> bytes:
    packed = gzip.compress(idx(random), 1, mtime=0)
    return mutate(packed, random) if random.random() < 0.8 else packed
