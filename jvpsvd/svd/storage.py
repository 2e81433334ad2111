"""A record of tensors and plain values in one safetensors file, whole or not there.

Values that are no tensors stand in the file's metadata, each as JSON under its own name, so that
any reader of safetensors shows them. Tensors inside of a value are named "value/field". A checksum
covers all names, values and tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jvpsvd.arguments import as_path
from jvpsvd.errors import DataError
from jvpsvd.machine import writing, written_aside

_KIND, _CHECKSUM = "jvpsvd", "checksum"
_INSIDE = "/"  # separates the names of a tensor and of the value that holds it


def write_record(path: str | os.PathLike[str], kind: str, record: Mapping[str, Any]) -> None:
    """Write a record of tensors, dataclasses, tuples, dicts and plain values to a file.

    A file of that name stays as it is until the new one is whole.

    Args:
        path: The file. A regular file there is replaced, whatever it holds.
        kind: Name and version of what is written.
        record: Values by name.

    Raises:
        DataError: If it cannot be written; a `DiskError` where the disk is the reason.
    """
    path = as_path("path", path)
    target = path.resolve()
    if not target.parent.is_dir():
        raise DataError(f"{path} cannot be written: no such folder; make it, or choose another")
    if target.exists() and not target.is_file():
        raise DataError(f"{path} is no regular file; choose another name")
    tensors = {name: value for name, value in record.items() if isinstance(value, Tensor)}
    texts = {
        name: json.dumps(_encode(value, name, tensors), ensure_ascii=False, allow_nan=False)
        for name, value in record.items()
        if name not in tensors
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    texts[_KIND] = kind
    with written_aside(target) as aside, writing(path):
        save_file(tensors, aside, metadata=texts | {_CHECKSUM: _checksum(texts, tensors)})


def read_record(
    path: str | os.PathLike[str], kind: str, classes: Mapping[str, type]
) -> dict[str, Any]:
    """Return a record that `write_record` wrote, bit for bit; tensors lie on the CPU.

    Args:
        path: The file.
        kind: What was given to `write_record`.
        classes: The dataclasses and named tuples that the record may hold, by name.

    Raises:
        ArgumentError: If the path is no name of a file.
        DataError: If there is no such file, it is damaged, or holds something else.
    """
    path = as_path("path", path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; give the file that result.save(path) has written")
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
            # Copies, because the file may change while the result lives.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path} is damaged, or no safetensors file ({_first_line(error)}); "
            "give what result.save(path) has written"
        ) from error
    if texts.get(_KIND) != kind:
        found = f"'{texts[_KIND]}'" if _KIND in texts else "other tensors"
        raise DataError(f"{path} holds {found}, not '{kind}'; give what result.save(path) wrote")
    if texts.pop(_CHECKSUM, "") != _checksum(texts, tensors):
        raise DataError(f"{path} is damaged: its checksum is another one; solve again, or copy it")
    del texts[_KIND]
    try:
        values = {name: _decode(json.loads(text), classes, tensors) for name, text in texts.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is of another version of jvpsvd ({_first_line(error)}); read it with that one"
        ) from error
    return values | {name: one for name, one in tensors.items() if _INSIDE not in name}


def read_kind(path: str | os.PathLike[str]) -> str | None:
    """Return the kind of a record; None of a file that is none."""
    path = as_path("path", path)
    if not path.is_file():  # to open a pipe would wait for its other end
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(_KIND)
    except (SafetensorError, OSError, ValueError, RuntimeError):
        return None


def _encode(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON holds it; tensors inside of it are added to `tensors`."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"type": "Tensor", "name": name}

    def inside(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: _encode(each, f"{name}{_INSIDE}{key}", tensors) for key, each in fields.items()
        }

    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"type": type(value).__name__, **inside(fields)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {"type": type(value).__name__, **inside(value._asdict())}
    if isinstance(value, tuple):
        return list(inside({str(i): each for i, each in enumerate(value)}).values())
    if isinstance(value, dict):
        return inside(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "value": str(value)}
    return value


def _decode(value: Any, classes: Mapping[str, type], tensors: Mapping[str, Tensor]) -> Any:
    """Return what was encoded; every list is a tuple."""
    if isinstance(value, list):
        return tuple(_decode(each, classes, tensors) for each in value)
    if not isinstance(value, dict):
        return value
    fields = {name: _decode(each, classes, tensors) for name, each in value.items()}
    name = fields.pop("type", None)
    if name is None:
        return fields
    if name == "Tensor":
        return tensors[fields["name"]]
    return float(fields["value"]) if name == "float" else classes[name](**fields)


def _checksum(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(sorted(texts.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
