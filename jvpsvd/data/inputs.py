"""Members of shards that are no photos: texts, arrays, sounds and tensors, decoded and written.

Nothing in them is executed: arrays with pickled objects are refused, and files of torch not read.
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from jvpsvd.arguments import as_path, shown
from jvpsvd.data.photos import decode_photo
from jvpsvd.data.sounds import decode_sound
from jvpsvd.data.suffixes import PHOTO_SUFFIXES
from jvpsvd.errors import ArgumentError, InputError
from jvpsvd.machine import writing, written_aside
from jvpsvd.networks import Inputs, Model

_FORMAT = tarfile.USTAR_FORMAT


def suffixes_of(inputs: str | None) -> tuple[str, ...]:
    """Return the endings of the members that are inputs; None stands for photos.

    >>> suffixes_of("txt"), "jpg" in suffixes_of(None)
    (('txt',), True)
    """
    return PHOTO_SUFFIXES if inputs is None else (inputs,)


def decode_input(data: bytes, model: Model) -> Any:
    """Return what a network takes for the bytes of a member: those of a photo, unless it says else.

    Raises:
        PhotoError: If they are no photo, where it takes photos.
        InputError: If they are not of the kind it takes, or its function fails on what they hold.
    """
    inputs = model.inputs
    if inputs is None:
        return decode_photo(data, model.photo_input)
    content = _as_example(decode_member(data, inputs.suffix, inputs.rate), inputs.example)
    try:
        return copy_arguments(inputs.arguments(content))
    except Exception as error:  # the user's own code
        raise InputError(
            f"the arguments of this input cannot be made: {type(error).__name__}: {error}"
        ) from error


def copy_arguments(given: Any) -> Any:
    """Return the arguments of a network with copies of tensors and arrays; mappings become dicts.

    A function may return the same tensors again, with the numbers of another input.

    >>> buffer = torch.zeros(1)
    >>> kept = copy_arguments({"ids": buffer, "use_cache": False})
    >>> _ = buffer.fill_(7)
    >>> kept
    {'ids': tensor([0.]), 'use_cache': False}
    """
    named = dict(given) if isinstance(given, Mapping) else given
    named = tree_map_only(Tensor, torch.clone, named)
    return tree_map_only(np.ndarray, np.copy, named)


def decode_member(
    data: bytes, suffix: str, rate: int | None = None
) -> str | Tensor | dict[str, Tensor]:
    """Return what the bytes of a member hold: a text, a tensor, or tensors by name.

    Args:
        data: The bytes.
        suffix: The ending of its name.
        rate: Samples per second that a sound must have; None for any.

    Raises:
        InputError: If they cannot be read.

    >>> decode_member("σ₁".encode(), "txt")
    'σ₁'
    """
    try:
        if suffix == "txt":
            return data.decode("utf-8-sig")
        if suffix == "safetensors":
            return safetensors.torch.load(data)
        if suffix == "wav":
            return decode_sound(data, rate)
        array = np.load(io.BytesIO(data), allow_pickle=False)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except InputError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        if "pickle" in str(error):
            raise InputError(
                f"it is no .{suffix} of numbers, and Python objects are not read; replace the file"
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{len(data)} bytes that are no .{suffix} ({first}); replace the file"
        ) from error


def _as_example(content: Any, example: Any) -> Any:
    """Return floating tensors in the dtype that the example has; NumPy writes float64.

    Raises:
        InputError: If one is of another kind of number.
    """
    if isinstance(content, dict):
        known = example if isinstance(example, Mapping) else {}
        return {name: _as_example(value, known.get(name)) for name, value in content.items()}
    if not isinstance(content, Tensor) or not isinstance(example, Tensor):
        return content
    if content.is_floating_point() and example.is_floating_point():
        return content.to(example.dtype)
    if content.dtype != example.dtype:
        raise InputError(
            f"it holds {content.dtype}, and the example {example.dtype}; write it as that"
        )
    return content


def write_inputs(inputs: Iterable[Any], shard: str | os.PathLike[str]) -> int:
    """Write inputs as a shard of `.safetensors` members, and return how many.

    The same inputs give the same bytes.

    Args:
        inputs: Tensors, dicts of tensors, or pairs of one of these and a class index.
        shard: The file.

    Raises:
        ArgumentError: If one is something else.
        DiskError: If the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_inputs([torch.ones(2), ({"x": torch.ones(2)}, 3)], f"{folder}/inputs.tar")
    2
    """
    count, shard = 0, as_path("shard", shard)
    with written_aside(shard) as aside:
        with writing(shard):
            file = aside.open("wb")
        # What fails in the inputs themselves is not of the disk. A full disk fails once more where
        # the file is closed.
        with _closed_in_any_case(file), tarfile.open(fileobj=file, mode="w", format=_FORMAT) as tar:
            for count, (tensors, label) in enumerate(_contents(inputs), start=1):
                key = f"input{count - 1:06d}"
                with writing(shard):
                    _add(tar, f"{key}.safetensors", safetensors.torch.save(tensors))
                    if label is not None:
                        _add(tar, f"{key}.cls", str(label).encode())
            with writing(shard):
                tar.close()
                file.close()
    return count


@contextlib.contextmanager
def _closed_in_any_case(file: BinaryIO) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.close()


def _contents(inputs: Iterable[Any]) -> Iterator[tuple[dict[str, Tensor], int | None]]:
    """Yield tensors by name and the class of each input; "" names the tensor that is one."""
    for index, one in enumerate(inputs):
        pair = isinstance(one, tuple) and len(one) == 2
        if pair and _is_truth_value(one[1]):
            raise ArgumentError(
                f"input {index} is a pair with {shown(one[1])}, which is no class index and may be "
                "a switch of the network; give int(label) for a class, and a dict for several "
                "arguments"
            )
        labelled = pair and isinstance(one[1], int) and not isinstance(one[1], bool)
        content, label = one if labelled else (one, None)
        tensors = {"": content} if isinstance(content, Tensor) else content
        if not isinstance(tensors, Mapping) or not all(
            isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
        ):
            raise ArgumentError(
                f"input {index} is a {type(content).__name__}; give tensors, dicts of tensors, or "
                "pairs of one of these and a class index"
            )
        yield {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, label


def _is_truth_value(value: Any) -> bool:
    if isinstance(value, Tensor | np.ndarray):
        return value.shape in ((), (1,)) and value.dtype in (torch.bool, np.bool_)
    return isinstance(value, bool | np.bool_)


def as_written(content: Mapping[str, Tensor]) -> Any:
    """Return an input that `write_inputs` wrote: a tensor, or a dict of tensors.

    >>> as_written({"": torch.ones(1)})
    tensor([1.])
    """
    return content[""] if content.keys() == {""} else dict(content)


def inputs_as_written(
    example: Mapping[str, Tensor], since: str | None, wrt: str | int | None
) -> Inputs:
    """Return how members that `write_inputs` wrote become the input of a network."""
    return Inputs("safetensors", example, as_written, since=since, wrt=None if since else wrt)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
