"""Files of weights that break readers: state dicts, safetensors, Caffe models, pickles.

As in `fuzzed_files`, each maker takes a `random.Random` and returns bytes.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from benchmarks.problems.fuzzed_files import NUMBERS, mutate, noise, text


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
    """Return a state dict some entries of which, or all of it, are something else."""
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
        warnings.simplefilter("ignore")  # torch warns of rare kinds of tensors
        state = _odd_state(random)
        try:
            torch.save(state, file, **how)
        except Exception:  # not every odd thing can be saved
            torch.save({}, file, **how)
    return file.getvalue()


def torch_zip(random: Random) -> bytes:
    """Return a torch file; in half of them the entries of the zip are changed, not the zip."""
    data = _saved_state(random)
    chance = random.random()
    if chance < 0.3:
        return data
    if chance < 0.5:
        return mutate(data, random)
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
    """Return a file as torch wrote it before 1.6, its tensors in the order of their addresses."""
    data = _saved_state(random, _use_new_zipfile_serialization=False)
    return data if random.random() < 0.2 else _pickle(data, random)


def plain_pickle(random: Random) -> bytes:
    state = {name: random.choice(NUMBERS) for name in network().state_dict()}
    wrapped = random.choice((state, OrderedDict(state), [state], (text(random),)))
    return _pickle(pickle.dumps(wrapped, random.randint(0, 5)), random)


def _pickle(data: bytes, random: Random) -> bytes:
    """Return a pickle with operations changed, inserted or removed."""
    out = bytearray(data)
    codes = [op.code.encode("latin-1") for op in pickletools.opcodes]
    for _ in range(random.randint(0, 4)):
        offset = random.randrange(len(out) + 1)
        kind = random.randrange(3)
        if kind == 0:
            out[offset:offset] = random.choice(codes)
        elif kind == 1:
            out[offset : offset + 1] = random.choice(codes)
        else:
            del out[offset : offset + random.randint(1, 3)]
    return mutate(bytes(out), random, 2) if random.random() < 0.3 else bytes(out)


def safetensors(random: Random) -> bytes:
    tensors = {n: t.contiguous() for n, t in network().state_dict().items()}
    return _safetensors(save(tensors), random)


def gained_network(random: Random) -> bytes:
    """Return a file as `save_network` writes it, or almost one."""
    sizes = [random.choice((1, 2, 3, 4, 4, 0)) for _ in range(random.randint(1, 4))]
    tensors = {}
    for index, (wide, narrow) in enumerate(pairwise(sizes)):
        odd = random.random() < 0.1
        tensors[f"{index}.weight"] = torch.zeros(
            (narrow, wide, 2)[: random.randint(0, 3) if odd else 2]
        )
        tensors[f"{index}.bias"] = torch.zeros(narrow + odd)
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
        return mutate(data, random)
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
    """Return layers of blobs in the wire format, right or almost right."""
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
    return data if random.random() < 0.3 else mutate(data, random, 3)


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
