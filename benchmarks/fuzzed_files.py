"""Files that break readers: valid ones, changed where their structure is, and noise.

Each maker takes a `random.Random` and returns bytes; `benchmarks.fuzz` gives them to the readers.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import pickletools
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from safetensors.torch import save
from torch import nn

Maker = Callable[[Random], bytes]

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 511, 512, 65535, 1 << 20, (1 << 31) - 1, 1 << 31)
NUMBERS += ((1 << 32) - 1, 1 << 40, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
TEXTS = ("", "0", "-1", "-512", "none", "nan", "1e999", "0,1", "a,b", "9" * 400, "9" * 5000, "\0")
TEXTS += (str(1 << 40), str(1 << 62), str(1 << 70), "0" * 300, " 7 ", "0x10", "１", "\ud800")


def noise(random: Random) -> bytes:
    return random.randbytes(random.choice((0, 1, 7, 64, 511, 512, 1024, random.randrange(4096))))


def mutated(data: bytes, random: Random, most: int = 8) -> bytes:
    """Return the bytes after a few changes, most of them where headers are."""
    out = bytearray(data)
    for _ in range(random.randint(1, most)):
        if not out:
            return noise(random)
        span = random.choice((16, 64, 600, len(out)))
        place = random.randrange(min(span, len(out)))
        length = random.choice((1, 2, 4, 8, 40, 512))
        kind = random.randrange(9)
        if kind < 2:
            out[place] ^= 1 << random.randrange(8)
        elif kind == 2:
            out[place : place + length] = random.randbytes(length)
        elif kind == 3:
            del out[random.randrange(len(out)) :]
        elif kind == 4:
            out[place:place] = random.randbytes(length)
        elif kind == 5:
            del out[place : place + length]
        elif kind == 6:
            out[place:place] = out[place : place + length * random.choice((1, 20))]
        elif kind == 7:
            out[place : place + length] = bytes(length)
        else:
            order, form = random.choice("<>"), random.choice("HIQ")
            value = random.choice(NUMBERS) % (1 << 8 * struct.calcsize(form))
            packed = struct.pack(order + form, value)
            out[place : place + len(packed)] = packed
    return bytes(out)


def text(random: Random) -> str:
    return random.choice(TEXTS)


# Photos.


@cache
def photos() -> tuple[bytes, ...]:
    """Small photos of all formats, modes and compressions that Pillow writes."""
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
    return mutated(data, random)


def _png(data: bytes, random: Random) -> bytes:
    """Return a PNG of which chunks were changed, and have checksums again."""
    out, at = bytearray(data[:8]), 8
    while at < len(data):
        (size,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if random.random() < 0.4:
            body = mutated(body, random, 2)
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
    """Return a tar of odd members, often changed and with checksums of headers set right."""
    parts = [_member(random) for _ in range(random.randint(0, 6))]
    if parts and random.random() < 0.2:
        parts.append(random.choice(parts))
    ends = (bytes(1024), bytes(1024), bytes(10240), bytes(40960), b"", bytes(100), b"x" * 700)
    data = b"".join(parts) + random.choice(ends)
    if random.random() < 0.5:
        data = mutated(data, random)
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
    except (ValueError, UnicodeEncodeError):  # what a form cannot say
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


# Weights.


def network() -> nn.Sequential:
    """Return the small network that weights are loaded into."""
    net = nn.Sequential()
    net.add_module("conv", nn.Conv2d(2, 3, 3))
    net.add_module("norm", nn.BatchNorm2d(3))
    net.add_module("fc", nn.Linear(5, 3))
    for parameter in net.parameters():
        nn.init.constant_(parameter, 0.5)
    return net.eval()


def _odd_state(random: Random) -> Any:
    """Return a state dict of which entries, or the whole, are something else."""
    state: Any = network().state_dict()
    names = list(state)
    odd: list[Callable[[], Any]] = [
        lambda: torch.zeros(2, 2).to_sparse(),
        lambda: torch.zeros(3, 5).to_sparse_csr(),
        lambda: torch.zeros(3, 5, dtype=torch.complex64),
        lambda: torch.zeros(3, 5, device="meta"),
        lambda: torch.zeros(0),
        lambda: torch.zeros(1).expand(3, 5),
        lambda: torch.full((3, 5), float("nan")),
        lambda: torch.quantize_per_tensor(torch.zeros(3, 5), 0.1, 0, torch.qint8),
        lambda: torch.zeros(3, 5, dtype=torch.float8_e4m3fn),
        lambda: torch.zeros(3, 5, dtype=torch.bool),
        lambda: nn.Parameter(torch.zeros(3, 5)),
        lambda: random.choice(NUMBERS),
        lambda: text(random),
        lambda: [1, {2: 3}],
        lambda: None,
        lambda: OrderedDict(state),
    ]
    for _ in range(random.randint(0, 3)):
        kind = random.randrange(5)
        if kind == 0:
            state.pop(random.choice(names), None)
        elif kind == 1:
            state[random.choice((text(random), 3, None, (1, 2)))] = random.choice(odd)()
        elif kind == 2:
            state._metadata = random.choice(
                (3, {"": 3}, {"norm": {"version": "2"}}, None, odd[0]())
            )
        else:
            state[random.choice(names)] = random.choice(odd)()
    wrap = random.randrange(12)
    if wrap == 0:
        return {"state_dict": state}
    if wrap == 1:
        return {"state_dict": {"state_dict": state}, "epoch": 3}
    return random.choice(odd)() if wrap == 2 else state


def _saved_state(random: Random, **how: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of kinds of tensors that few use
        state = _odd_state(random)
        try:
            torch.save(state, file, **how)
        except Exception:  # not every odd thing can be saved
            torch.save({}, file, **how)
    return file.getvalue()


def torch_zip(random: Random) -> bytes:
    """Return a torch file; in half of them, what is in the zip was changed, not the zip."""
    data = _saved_state(random)
    chance = random.random()
    if chance < 0.3:
        return data
    if chance < 0.5:
        return mutated(data, random)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.namelist():
            content = old.read(entry)
            if random.random() < 0.5:
                content = _pickle(content, random) if entry.endswith(".pkl") else noise(random)
            kind = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            if random.random() < 0.95:
                new.writestr(zipfile.ZipInfo(entry), content, kind)
    return out.getvalue()


def torch_legacy(random: Random) -> bytes:
    """Return a file as torch wrote them before 1.6; its tensors lie in the order of memory."""
    data = _saved_state(random, _use_new_zipfile_serialization=False)
    return data if random.random() < 0.2 else _pickle(data, random)


def plain_pickle(random: Random) -> bytes:
    state = {name: random.choice(NUMBERS) for name in network().state_dict()}
    wrapped = random.choice((state, OrderedDict(state), [state], (text(random),)))
    return _pickle(pickle.dumps(wrapped, random.randint(0, 5)), random)


def _pickle(data: bytes, random: Random) -> bytes:
    """Return a pickle with operations changed, inserted or taken away."""
    out = bytearray(data)
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    for _ in range(random.randint(0, 4)):
        place = random.randrange(len(out) + 1)
        kind = random.randrange(3)
        if kind == 0:
            out[place:place] = random.choice(codes)
        elif kind == 1:
            out[place : place + 1] = random.choice(codes)
        else:
            del out[place : place + random.randint(1, 3)]
    return mutated(bytes(out), random, 2) if random.random() < 0.3 else bytes(out)


def safetensors(random: Random) -> bytes:
    tensors = {n: t.contiguous() for n, t in network().state_dict().items()}
    return _safetensors(save(tensors), random)


def gained_network(random: Random) -> bytes:
    """Return what `save_network` writes, or nearly."""
    sizes = [random.choice((1, 2, 3, 4, 4, 0)) for _ in range(random.randint(1, 4))]
    tensors = {}
    for place, (wide, narrow) in enumerate(pairwise(sizes)):
        odd = random.random() < 0.1
        tensors[f"{place}.weight"] = torch.zeros(
            (narrow, wide, 2)[: random.randint(0, 3) if odd else 2]
        )
        tensors[f"{place}.bias"] = torch.zeros(narrow + odd)
    gains = (
        *("[1.0]",) * 10,
        "[]",
        "[1, 2, 3]",
        "7",
        '["x"]',
        "null",
        "[1e999]",
        "[[]]",
        "{",
        '{"a": 1}',
    )
    metadata = random.choice((None, *({"gains": value} for value in gains)))
    return _safetensors(save(tensors, metadata), random)


def _safetensors(data: bytes, random: Random) -> bytes:
    """Return the file with entries of its header changed, or with bytes changed."""
    if random.random() < 0.3:
        return mutated(data, random)
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    for _ in range(random.randint(0, 3) if header else 0):
        name = random.choice([*header])
        entry = header[name]
        if not isinstance(entry, dict) or "gains" in entry or name == "__metadata__":
            header[name] = random.choice(({}, {"gains": text(random)}, {"gains": 3}, [], None))
            continue
        kind = random.randrange(5)
        if kind == 0:
            entry["dtype"] = random.choice(
                ("F32", "F64", "F16", "BF16", "I64", "BOOL", "F4", "X", 3)
            )
        elif kind == 1:
            entry["shape"] = [random.choice((*NUMBERS[:8], -1, 1 << 62)) for _ in range(2)]
        elif kind == 2:
            entry["data_offsets"] = [random.choice((*NUMBERS, -1)) for _ in range(2)]
        elif kind == 3:
            header[text(random)] = header.pop(name)
        else:
            entry.pop(random.choice(("dtype", "shape", "data_offsets")), None)
    head = json.dumps(header).encode()
    claimed = random.choice((len(head),) * 100 + NUMBERS)
    return struct.pack("<Q", claimed) + head + rest[: random.choice((len(rest),) * 9 + (7,))]


def caffemodel(random: Random) -> bytes:
    """Return layers of blobs in the wire format, right or nearly."""
    data = b""
    for name, module in network().named_children():
        if isinstance(module, nn.BatchNorm2d) and random.random() < 0.05:
            continue
        old = random.random() < 0.3
        blobs = [_blob(p.detach(), old, random) for p in module.parameters()]
        if random.random() < 0.1:
            blobs *= random.randint(0, 3)
        named = text(random) if random.random() < 0.1 else name
        body = _field(4 if old else 1, named.encode(errors="surrogatepass"))
        body += b"".join(_field(6 if old else 7, blob) for blob in blobs)
        data += _field(2 if old else 100, body)
    return data if random.random() < 0.3 else mutated(data, random, 3)


def _blob(values: torch.Tensor, old: bool, random: Random) -> bytes:
    sizes = [random.choice(NUMBERS) if random.random() < 0.01 else n for n in values.shape]
    if old:
        shape = b"".join(_field(i, n) for i, n in enumerate((1, 1, 1, 1, *sizes)[-4:], 1))
    else:
        shape = _field(7, _field(1, b"".join(map(_varint, sizes))))
    double = random.random() < 0.3
    packed = values.flatten().double().numpy().astype("<f8" if double else "<f4").tobytes()
    return shape + _field(8 if double else 5, packed[: random.choice((None,) * 30 + (4, 5))])


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


# Digits.


def idx(random: Random) -> bytes:
    """Return an idx file of labels, or nearly."""
    data = struct.pack(">II", 0x801, 10_000) + random.randbytes(random.choice((0, 100, 10_000)))
    return mutated(data, random) if random.random() < 0.7 else data


def idx_gz(random: Random) -> bytes:
    packed = gzip.compress(idx(random), 1, mtime=0)
    return mutated(packed, random) if random.random() < 0.8 else packed
