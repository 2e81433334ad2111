"""The inputs of a study, one by one, as the network takes them: batches of one."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset

from jvpsvd.arguments import first_names, shown
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.operators import uncompiled
from jvpsvd.operators.arrays import is_array, is_whole, tensor_of


@contextmanager
def told_how_read(first: Any) -> Iterator[None]:
    """Say in errors of the network how X was read, since a missing dimension is a common cause.

    Args:
        first: The first input, as the network gets it.
    """
    try:
        yield
    except ModelError as error:
        if error.__cause__ is None:
            raise
        named = first if isinstance(first, Mapping) else {"": first}
        shapes = {name: tuple(x.shape) for name, x in named.items() if isinstance(x, Tensor)}
        batch = all(shape[1:2] == (1,) and len(shape) > 2 for shape in shapes.values())
        other = "; items come without the dimension of the batch, as x[0]" if batch else ""
        single = "for a single input give X[None]"
        read, given = f"inputs of shape {shapes.get('', ())[1:]}", f"{shapes.get('', ())}"
        if isinstance(first, Mapping):
            other = other.replace("x[0]", "{name: value[0] for name, value in x.items()}")
            single = "the dimension of the batch is added"
            read, given = _describe(list_kinds(first, 1)), _describe(list_kinds(first, 0))
        raise ModelError(
            f"{error} (X was read as {read}, each given to the model as {given}; {single}{other})"
        ) from error


def list_arguments(model: nn.Module) -> tuple[str, ...]:
    """Return the arguments of a network that may be tensors; switches, as ``causal=True``, are not.

    >>> list_arguments(nn.Linear(2, 2)), list_arguments(nn.Bilinear(2, 2, 2))
    (('input',), ('input1', 'input2'))
    """
    model = uncompiled(model)
    while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except ValueError:  # of what torch.jit traced; one that it lacks is told when it is called
        return ("x",)
    several = [f"*{one.name}" for one in parameters if one.kind is one.VAR_POSITIONAL]
    named = [
        one.name
        for one in parameters
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and not isinstance(one.default, bool | int | float | str)
    ]
    return (*(named or ["x"]), *several)


def count_inputs(X: Any) -> int | None:
    """Return how many inputs there are; None if only reading them tells.

    >>> count_inputs(torch.zeros(5, 3)), count_inputs(iter([torch.zeros(3)]))
    (5, None)
    """
    if isinstance(X, DataLoader) and X.batch_sampler is not None:
        if X.batch_size is None:  # a sampler of one's own may leave some out
            return None
        return len(X.sampler) if isinstance(X.sampler, Sized) and not X.drop_last else None
    if isinstance(X, Mapping):
        first: Any = next(iter(X.values()), None)
        return len(first) if _holds_inputs(first) else None
    try:
        return len(X)
    except TypeError:
        return None


def each_input(X: Any, device: torch.device, arguments: Sequence[str] = ()) -> Iterator[Any]:
    """Yield the inputs on a device, each a batch of one.

    A tensor, a mapping of tensors and the batches of a DataLoader hold inputs along their first
    dimension. The items of a dataset, a list or another iterable are one input each, without that
    dimension. These and batches are copied, because what yields them may go on to change them. In a
    pair (input, label) the input comes first. An array (NumPy's, or with ``__dlpack__`` or
    ``__array__``) is taken as a tensor of its dtype.

    Args:
        X: The inputs.
        device: Where they are brought.
        arguments: Those of the network, see `list_arguments`. Where there are several, the label of
            a pair must be an integer, or no tensor.

    Raises:
        ArgumentError: On anything else.

    >>> [x.shape for x in each_input(torch.zeros(2, 3), torch.device("cpu"))]
    [torch.Size([1, 3]), torch.Size([1, 3])]
    >>> [x.shape for x in each_input([(torch.zeros(3), "label")], torch.device("cpu"))]
    [torch.Size([1, 3])]
    """
    if isinstance(X, Tensor | Mapping) or is_array(X):
        yield from _split(X, device)
    elif isinstance(X, DataLoader) and X.batch_sampler is not None:
        for batch in X:
            yield from _split(_without_label(batch, arguments, batch_dims=1), device, copy=True)
    else:
        for index, item in enumerate(_items(X)):
            yield _with_batch_dimension(_without_label(item, arguments), device, index)


def refuse_mixed_list(X: Any, arguments: Sequence[str] = ()) -> None:
    """Check that the inputs in a list are of one shape and dtype, before anything is computed.

    Those of a dataset or an iterable are known only as they are read; see `refuse_other_kind`.

    Raises:
        ArgumentError: Naming the first that is of another kind, or no input.
    """
    if not isinstance(X, list | tuple):
        return
    first = None
    for index, item in enumerate(X):
        one = _without_label(item, arguments)
        _refuse_no_input(one, index)
        if isinstance(one, Mapping) or (isinstance(one, Tensor) and not one.is_floating_point()):
            return  # these need since=, as they are told when the first is read
        first = one if first is None else first
        _refuse_other_kind(one, first, index, batch_dims=0)


def refuse_other_kind(x: Any, first: Any, index: int) -> None:
    """Check that an input, a batch of one as `each_input` yields it, is of the kind of the first.

    Raises:
        ArgumentError: If it is not.

    >>> refuse_other_kind(torch.zeros(1, 4), torch.zeros(1, 3), 7)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: input 7 is float32 (4,), the first float32 (3,); cut or pad ...
    """
    _refuse_other_kind(x, first, index, batch_dims=1)


def _refuse_other_kind(x: Any, first: Any, index: int, batch_dims: int) -> None:
    kind, wanted = list_kinds(x, batch_dims), list_kinds(first, batch_dims)
    if kind != wanted:
        raise ArgumentError(
            f"input {index} is {_describe(kind)}, the first {_describe(wanted)}; cut or pad inputs "
            "to one shape, in one dtype"
        )


def list_kinds(x: Any, batch_dims: int) -> dict[str | None, str]:
    """Return dtype and shape of each tensor of an input in words; None is the name of its only one.

    Other entries of a dict may differ between inputs.

    >>> list_kinds({"ids": torch.zeros(1, 5)}, batch_dims=0)
    {'ids': 'float32 (1, 5)'}
    """
    if isinstance(x, Mapping):
        parts = {name: part for name, part in x.items() if isinstance(part, Tensor)}
        return {name: list_kinds(part, batch_dims)[None] for name, part in parts.items()}
    return {None: f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape[batch_dims:])}"}


def _describe(kinds: Mapping[str | None, str]) -> str:
    if None in kinds:
        return kinds[None]
    return "a dict of " + ", ".join(f"{name}: {kind}" for name, kind in kinds.items())


def _items(X: Any) -> Iterable[Any]:
    if isinstance(X, Iterable) and not isinstance(X, str | bytes):
        return X
    if isinstance(X, Dataset) and isinstance(X, Sized):  # which has items, and no iterator
        return (X[index] for index in range(len(X)))
    raise ArgumentError(
        f"X={shown(X)} holds no inputs; give a tensor, a Dataset, a DataLoader or an iterable"
    )


def _holds_inputs(value: Any) -> bool:
    return (isinstance(value, Tensor) or is_array(value)) and value.ndim > 0


def _tensors(value: Any, name: str) -> Any:
    """Return arrays, alone or in a mapping, as tensors; refuse those that are no stack of parts."""
    if isinstance(value, Mapping):
        return {key: _tensors(part, f"{name}[{key!r}]") for key, part in value.items()}
    if isinstance(value, Tensor) and value.layout not in (torch.strided, torch.sparse_coo):
        raise ArgumentError(
            f"{name} is a tensor in {value.layout}, which takes no dimension of a batch; give "
            ".to_sparse_coo() of it"
        )
    return tensor_of(name, value) if is_array(value) else value


def _without_label(item: Any, arguments: Sequence[str], batch_dims: int = 0) -> Any:
    if not isinstance(item, tuple | list) or not item:
        return item
    several = len(arguments) > 1
    if several and (len(item) > 2 or not all(_is_label(one, batch_dims) for one in item[1:])):
        named = ", ".join(f"'{name}': …" for name in arguments[:2])
        raise ArgumentError(
            f"an input is a {type(item).__name__} of {len(item)}, and the network takes "
            f"{first_names(arguments)}: only the first would be given to it; give dicts of "
            f"arguments by name, as {{{named}}}, pairs of an input and a class index, or the "
            "inputs alone"
        )
    return item[0]


def _is_label(value: Any, batch_dims: int) -> bool:
    """Return whether this is a class index, or of classes of a batch, or nothing to compute with.

    A dict or list of tensors may be arguments of the network, and True or False a mask or switch.
    """
    if is_array(value):
        value = torch.as_tensor(value) if value.dtype.kind in "iu" else value
    if isinstance(value, Tensor):
        count = len(value) if batch_dims and value.ndim else 1
        return is_whole(value) and value.numel() == count
    return not any(
        isinstance(x, Tensor | bool | np.bool_) or is_array(x) for x in tree_leaves(value)
    )


def _split(batch: Any, device: torch.device, *, copy: bool = False) -> Iterator[Any]:
    batch = _tensors(batch, "X")
    if isinstance(batch, Mapping):
        lengths = {len(value) for value in batch.values() if isinstance(value, Tensor)}
        if len(lengths) != 1:
            raise ArgumentError(
                f"the tensors of a batch hold {sorted(lengths)} inputs; give as many in each"
            )
        for index in range(lengths.pop()):
            yield {
                name: value[index][None].to(device, copy=copy)  # torch slices no sparse tensor
                if isinstance(value, Tensor)
                else value
                for name, value in batch.items()
            }
        return
    if not isinstance(batch, Tensor) or batch.ndim == 0:
        raise ArgumentError(f"a batch is {shown(batch)}; give a tensor or a dict of tensors")
    for index in range(len(batch)):
        yield batch[index : index + 1].to(device, copy=copy)


def _with_batch_dimension(item: Any, device: torch.device, index: int) -> Any:
    item = _tensors(item, f"input {index}")
    if isinstance(item, Mapping):
        return {
            name: value[None].to(device, copy=True) if isinstance(value, Tensor) else value
            for name, value in item.items()
        }
    _refuse_no_input(item, index)
    return item[None].to(device, copy=True)


def _refuse_no_input(item: Any, index: int) -> None:
    if not isinstance(item, Tensor | Mapping) and not is_array(item):
        raise ArgumentError(
            f"input {index} is {shown(item)}; give tensors or arrays (torchvision's ToTensor turns "
            "a PIL image into one)"
        )
