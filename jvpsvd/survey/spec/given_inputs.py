"""What a user gives as the inputs of a survey, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arrays import is_array, is_whole, tensor_of


def each_given(inputs: Iterable[Any]) -> Iterator[Any]:
    """Yield the inputs as the network takes them, or pairs of one of these and a class index.

    The batches of a DataLoader are taken apart: each of their items is an input, with the dimension
    of the batch. What another iterable yields is one input as it is. Arrays become tensors.

    Raises:
        ArgumentError: If a batch cannot be taken apart.

    >>> loader = DataLoader([(torch.zeros(3), label) for label in range(5)], batch_size=2)
    >>> [(tuple(x.shape), label) for x, label in each_given(loader)][:3]
    [((1, 3), 0), ((1, 3), 1), ((1, 3), 2)]
    """
    for index, one in enumerate(_items(inputs)):
        if isinstance(one, tuple) and len(one) == 2:
            yield _as_tensors(one[0], index), _class_index(one[1])
        else:
            alone = isinstance(one, tuple) and len(one) == 1
            yield _as_tensors(one[0] if alone else one, index)


def in_one_shape(inputs: Iterable[Any]) -> Iterator[Any]:
    """Yield the inputs; refuse one whose tensors are not of the shapes of the first one's.

    Raises:
        ArgumentError: Naming the input.
    """
    first: dict[str, tuple[int, ...]] | None = None
    for index, one in enumerate(inputs):
        content = one[0] if isinstance(one, tuple) and one else one
        named = content if isinstance(content, Mapping) else {"": content}
        shapes = {n: tuple(part.shape) for n, part in named.items() if isinstance(part, Tensor)}
        first = shapes if first is None else first
        for name in shapes.keys() & first.keys():
            if shapes[name] != first[name]:
                part = f"'{name}' of input {index}" if name else f"input {index}"
                raise ArgumentError(
                    f"{part} is {shapes[name]}, that of the first {first[name]}; cut or pad all "
                    "inputs to one shape"
                )
        yield one


def are_batches(inputs: object) -> bool:
    """Return whether the inputs come in batches, so that each gets its batch dimension here.

    >>> are_batches(DataLoader([0.0, 1.0])), are_batches([0.0, 1.0])
    (True, False)
    """
    return isinstance(inputs, DataLoader) and inputs.batch_sampler is not None


def _items(inputs: Any) -> Iterator[Any]:
    if are_batches(inputs):
        return (one for batch in inputs for one in _take_apart(batch))
    if (
        isinstance(inputs, Dataset)
        and isinstance(inputs, Sized)
        and not hasattr(inputs, "__iter__")
    ):
        return (inputs[index] for index in range(len(inputs)))
    return iter(inputs)


def _take_apart(batch: Any) -> Iterator[Any]:
    """Yield the items of a batch, each a batch of one, with their class indices if it has them."""
    listed = isinstance(batch, tuple | list)
    content, *labels = batch if listed and batch else (batch,)
    named = content if isinstance(content, Mapping) else {"": content}
    counts = {len(part) for part in (*named.values(), *labels) if _is_long(part)}
    if len(labels) > 1 or len(counts) != 1 or not all(map(_is_long, (*named.values(), *labels))):
        raise ArgumentError(
            f"a batch of the DataLoader is {shown(batch)}; let it hold tensors or dicts of "
            "tensors, alone or in a pair with as many class indices"
        )
    for index in range(counts.pop()):
        parts = {name: part[index : index + 1] for name, part in named.items()}
        one = parts if isinstance(content, Mapping) else parts[""]
        yield (one, labels[0][index]) if labels else one


def _is_long(part: Any) -> bool:
    return isinstance(part, list | tuple) or (
        (isinstance(part, Tensor) or is_array(part)) and part.ndim > 0
    )


def _as_tensors(content: Any, index: int) -> Any:
    if isinstance(content, Mapping):
        return {name: _as_tensors(part, index) for name, part in content.items()}
    return tensor_of(f"input {index}", content) if is_array(content) else content


def _class_index(label: Any) -> Any:
    """Return a whole number of NumPy or torch as Python's; what is none is refused later."""
    if is_array(label):
        label = torch.as_tensor(label) if label.dtype.kind in "iu" else label
    if isinstance(label, Tensor):
        whole = label.numel() == 1 and is_whole(label)
    else:
        whole = isinstance(label, np.integer)
    return int(label) if whole else label
