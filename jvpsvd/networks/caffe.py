"""Load the weights of a `.caffemodel`: Caffe's NetParameter as a protocol buffer.

Only the fields that hold weights are declared, by their numbers in Caffe's caffe.proto. A parser
skips all others.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jvpsvd.errors import ModelError
from jvpsvd.imports import require

_BYTES_PER_VALUE = 16
"""A weight and its gradient as doubles: Caffe writes no more for one parameter."""

_MAX_RECORDS = 100_000
"""A file with more records holds no network, but is an attack on memory."""


def load_caffemodel(module: nn.Module, file: str | os.PathLike[str]) -> None:
    """Load the blobs of each layer into the child module of its name: weight, then bias.

    A blob fits a parameter of the same shape, apart from leading ones: old files store the weights
    of a fully connected layer as (1, 1, out, in) and all biases as (1, 1, 1, out). If anything does
    not fit, the module is unchanged. The file is read as numbers only. Reading takes about twice
    its size in memory.

    Source: src/caffe/proto/caffe.proto of https://github.com/BVLC/caffe.

    Args:
        module: A network whose layers are named as in the file, such as `caffenet`.
        file: A binary NetParameter, of any version since 2014.

    Raises:
        ModelError: If protobuf is not installed; if the file is missing, damaged, or too large for
            this network; or if a layer is missing, superfluous, repeated or of another shape.

    >>> import tempfile
    >>> fc = bytes.fromhex(  # layer "fc": a blob of shape (1, 1) with 2.0, one of (1,) with 1.0
    ...     "a2061f 0a026663 3a0c 3a040a020101 2a0400000040 3a0b 3a030a0101 2a040000803f"
    ... )
    >>> net = nn.Sequential()
    >>> net.add_module("fc", nn.Linear(1, 1))
    >>> with tempfile.NamedTemporaryFile(suffix=".caffemodel") as file:
    ...     _ = Path(file.name).write_bytes(fc)
    ...     load_caffemodel(net, file.name)
    >>> net(torch.tensor([3.0])).item()
    7.0
    """
    path = Path(file)
    parameters = _parameters(module)
    allowed = sum(p.numel() for layer in parameters.values() for p in layer)
    data = _read(path, _BYTES_PER_VALUE * allowed + 2**20, type(module).__name__)
    _refuse_too_many_records(data, path)
    layers = _layers(data, path)
    del data
    for name in parameters:
        if name not in layers:
            raise ModelError(
                f"{path} has no weights of layer '{name}', but of {_list_values(layers)}; give the "
                "file of this very network"
            )
    for name, blobs in layers.items():
        if name not in parameters:
            raise ModelError(
                f"{path} has weights of a layer {_show(name)}, which {type(module).__name__} has "
                "not; give the file of this very network"
            )
        _check(blobs, parameters[name], name, path)
    with torch.no_grad():
        for name, blobs in layers.items():
            for parameter, blob in zip(parameters[name], blobs, strict=True):
                parameter.copy_(_values(blob).reshape(parameter.shape))


def _parameters(module: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """Return the parameters of every layer that has some, in Caffe's order: weight, bias."""
    found = {name: tuple(layer.parameters(recurse=False)) for name, layer in module.named_modules()}
    return {name: parameters for name, parameters in found.items() if parameters}


def _read(path: Path, allowed: int, network: str) -> bytes:
    if not path.is_file():
        raise ModelError(f"no weights at {path}; give the path of a .caffemodel file")
    try:
        size = path.stat().st_size
        if size > allowed:
            raise ModelError(
                f"{path} has {size} bytes, and no file of {network} has more than {allowed}; give "
                "the file of this very network"
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); check the file") from error


_LAYERS = (2, 100)
"""Fields of NetParameter with layers, before and since 2015."""


def _refuse_too_many_records(data: bytes, path: Path) -> None:
    """Refuse files with too many layers and blobs.

    A parser makes an object of each, even if it takes only two bytes in the file.
    """
    waiting: list[tuple[memoryview, bool]] = [(memoryview(data), True)]
    count = 0
    while waiting:
        view, whole = waiting.pop()
        for number, record in _records(view, path):
            count += 1
            if count > _MAX_RECORDS:
                raise _damaged(path, f"more than {_MAX_RECORDS} records")
            if whole and record is not None and number in _LAYERS:
                waiting.append((record, False))


def _records(view: memoryview, path: Path) -> Iterator[tuple[int, memoryview | None]]:
    """Yield the number of each field, with its bytes if it is length-delimited."""
    at = 0
    while at < len(view):
        tag, at = _varint(view, at, path)
        record = None
        wire = tag & 7
        if wire == 0:
            _, at = _varint(view, at, path)
        elif wire == 2:
            size, at = _varint(view, at, path)
            record = view[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire not in (3, 4):  # these two open and close a group of fields
            raise _damaged(path, f"a field of unknown kind {wire}")
        if at > len(view):
            raise _damaged(path, "a field that ends after the file")
        yield tag >> 3, record


def _varint(view: memoryview, at: int, path: Path) -> tuple[int, int]:
    """Return the varint at an offset (seven bits a byte, lowest first), and where it ends."""
    value = 0
    for index, byte in enumerate(view[at : at + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, at + index + 1
    raise _damaged(path, "a number that does not end")


def _damaged(path: Path, reason: str) -> ModelError:
    return ModelError(
        f"{path} is no .caffemodel, or is damaged ({reason}); fetch the file again, and compare "
        "its checksum"
    )


@cache
def _messages() -> tuple[Any, Any]:
    """Return the message types NetParameter and BlobShape of caffe.proto, weights only.

    A blob's shape stays bytes here, because a hostile one could hold millions of numbers.
    """
    pb = importlib.import_module("google.protobuf.descriptor_pb2")
    pools = importlib.import_module("google.protobuf.descriptor_pool")
    factory = importlib.import_module("google.protobuf.message_factory")
    kind = pb.FieldDescriptorProto
    file = pb.FileDescriptorProto(name="weights.proto", package="caffe", syntax="proto2")

    def add(message: str, **fields: tuple[int, int] | tuple[int, int, str]) -> None:
        described = file.message_type.add(name=message)
        for name, (number, form, *of) in fields.items():
            field = described.field.add(name=name, number=number, type=form)
            single = form in (kind.TYPE_BYTES, kind.TYPE_INT64) and name != "dim"
            field.label = kind.LABEL_OPTIONAL if single else kind.LABEL_REPEATED
            if of:
                field.type_name = f".caffe.{of[0]}"

    add("BlobShape", dim=(1, kind.TYPE_INT64))
    add(
        "BlobProto",
        num=(1, kind.TYPE_INT64),
        channels=(2, kind.TYPE_INT64),
        height=(3, kind.TYPE_INT64),
        width=(4, kind.TYPE_INT64),
        data=(5, kind.TYPE_FLOAT),
        shape=(7, kind.TYPE_BYTES),
        double_data=(8, kind.TYPE_DOUBLE),
    )
    for message, name, blobs in (("LayerParameter", 1, 7), ("V1LayerParameter", 4, 6)):
        add(
            message,
            name=(name, kind.TYPE_BYTES),
            blobs=(blobs, kind.TYPE_MESSAGE, "BlobProto"),
        )
    add(
        "NetParameter",
        layers=(2, kind.TYPE_MESSAGE, "V1LayerParameter"),
        layer=(100, kind.TYPE_MESSAGE, "LayerParameter"),
    )
    pool = pools.DescriptorPool()
    pool.Add(file)
    net, shape = (
        factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))
        for name in ("NetParameter", "BlobShape")
    )
    return net, shape


def _parse(message: int, data: bytes, path: Path) -> Any:
    require(f"reading {path}", "caffe", "google.protobuf")
    try:
        return _messages()[message].FromString(data)
    except Exception as error:  # DecodeError, and whatever else parsers raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _damaged(path, first[:200]) from error


def _layers(data: bytes, path: Path) -> dict[str, list[Any]]:
    """Return the blobs of every layer that has some."""
    net = _parse(0, data, path)
    found: dict[str, list[Any]] = {}
    for layer in (*net.layers, *net.layer):
        if layer.blobs:
            name = layer.name.decode(errors="backslashreplace")
            if name in found:
                raise ModelError(f"{path} has two layers of the name {_show(name)}; give another")
            found[name] = list(layer.blobs)
    return found


def _check(blobs: list[Any], parameters: tuple[Tensor, ...], name: str, path: Path) -> None:
    """Refuse a layer whose blobs are not the parameters, number by number."""
    where = f"{path}, layer '{name}':"
    if len(blobs) != len(parameters):
        raise ModelError(
            f"{where} {len(blobs)} blobs, where {len(parameters)} are expected; give the file "
            "of this very network"
        )
    for blob, parameter in zip(blobs, parameters, strict=True):
        claimed, expected = _shape(blob, path), tuple(parameter.shape)
        if _without_ones(claimed) != _without_ones(expected):
            raise ModelError(
                f"{where} a blob of shape {_list_values(claimed)}, where {expected} is expected; "
                "give the file of this very network"
            )
        held = len(blob.data) or len(blob.double_data)
        if held != math.prod(expected):
            raise ModelError(
                f"{where} a blob of {held} values, where its shape {expected} takes "
                f"{math.prod(expected)}; the file is damaged, fetch it again"
            )


def _shape(blob: Any, path: Path) -> tuple[int, ...]:
    """Return the shape that a blob states; files from before 2015 have four fields for it."""
    if not blob.HasField("shape"):
        return blob.num, blob.channels, blob.height, blob.width
    if len(blob.shape) > 256:
        raise _damaged(path, "a shape of hundreds of axes")
    return tuple(_parse(1, blob.shape, path).dim)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((at for at, size in enumerate(shape) if size != 1), len(shape))
    return shape[first:]


def _values(blob: Any) -> Tensor:
    single = len(blob.data) > 0
    values = blob.data if single else blob.double_data
    # Under protobuf 5 and 6, np.array would first make a list of Python floats.
    kind = np.float32 if single else np.float64
    return torch.from_numpy(np.fromiter(values, kind, count=len(values)))


def _list_values(values: Any) -> str:
    """Return a few of the values, for a message."""
    shown = [_show(value) if isinstance(value, str) else str(value) for value in values]
    more = ", …" if len(shown) > 8 else ""
    return f"({', '.join(shown[:8])}{more})" if shown else "none"


def _show(name: str) -> str:
    return f"{name[:40]!a}"
