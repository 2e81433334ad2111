"""Call a network with its weights in another dtype, each converted when it is first read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.environment.checkpointing import kept_activations
from jvpsvd.operators.function.modules import called_module, reached_from

_DTYPE = Tensor.dtype.__get__  # type: ignore[attr-defined]
# Attributes that have the entries of a weight; others, such as its shape, do not read it.
_ENTRIES = {"data", "T", "mT", "H", "mH", "real", "grad"}
_ATTRIBUTES_ONLY = {
    *(Tensor.size, Tensor.stride, Tensor.dim, Tensor.numel, Tensor.nelement, Tensor.__len__),
    *(Tensor.is_floating_point, torch.is_floating_point, Tensor.is_complex, torch.is_complex),
    *(Tensor.is_inference, torch.is_inference, Tensor.is_contiguous, Tensor.get_device),
}


def convert_weights(fn: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    """Return fn as it computes with copies of its network's weights in this dtype.

    Only the weights that fn reads are converted, once.

    Args:
        fn: A module, or a function that calls one, such as `layer_map` returns.
        dtype: None to leave fn as it is.

    Raises:
        ArgumentError: If it calls no module or several, or the dtype is not real floating.

    >>> half = nn.Linear(2, 2).bfloat16()
    >>> convert_weights(half, torch.float32)(torch.ones(2)).dtype, half.weight.dtype
    (torch.float32, torch.bfloat16)
    >>> convert_weights(lambda x: half(x).relu(), torch.float32)(torch.ones(2)).dtype
    torch.float32
    """
    if dtype is None:
        return fn
    check_dtype(dtype)
    network = called_module(fn)
    if network is None:
        raise ArgumentError(
            f"dtype={dtype} converts the weights of a module, and fn is a {type(fn).__name__} that "
            "calls none or several; convert what it computes with yourself"
        )
    return Converted(fn, network, dtype)


def check_dtype(dtype: object) -> None:
    """Check that a dtype to convert to is None or real floating point.

    Raises:
        ArgumentError: If it is something else.

    >>> check_dtype(torch.int64)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: dtype=torch.int64 is not real floating point; use torch.float32 ...
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError(
            f"dtype={shown(dtype)} is not real floating point; use torch.float32 or torch.float64"
        )


class Converted:
    """A function that calls a network, with that network's floating weights in another dtype.

    What is tied stays tied. The first evaluation finds which weights are read: later layers of a
    network that is run to a middle one are not.

    Args:
        fn: The function.
        network: The network.
        dtype: The dtype.
        given: Names of weights that are given with each call, and not converted.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).bfloat16()
    >>> first = Converted(lambda x: net[0](x), net, torch.float32)
    >>> _ = first(torch.ones(2))
    >>> sorted(first.weights)
    ['0.bias', '0.weight']
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        network: nn.Module,
        dtype: torch.dtype,
        given: Collection[str] = (),
    ) -> None:
        self.__wrapped__ = fn  # for `called_modules`
        self._caller, self._dtype = _Caller(fn, network), dtype
        self.weights: dict[str, Tensor] = {}
        """Those that have been read, in the dtype, by name."""
        self._originals: dict[int, tuple[Tensor, list[str]]] = {}
        for name, own in named_tensors(network):
            # One of this dtype already is the user's own, and is read as such.
            if own.is_floating_point() and own.dtype != dtype and name not in given:
                self._originals.setdefault(id(own), (own, []))[1].append(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the function's value."""
        return self.call_with({}, *args, **kwargs)

    def call_with(self, given: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        """Return the function's value with further weights replaced by these."""
        weights = {f"network.{name}": weight for name, weight in {**self.weights, **given}.items()}
        reading = _ReadConverted(self) if self._originals else nullcontext()
        # torch sees what an autograd function saves only where the weight itself is replaced.
        with reading, kept_activations():
            return functional_call(self._caller, weights, args, kwargs, tie_weights=False)

    def read(self, value: Tensor) -> Tensor:
        """Return a tensor that is read, converted if it is a weight."""
        found = self._originals.get(id(value))
        if found is None:
            return value
        own, names = found
        weight = self.weights.get(names[0])
        if weight is None:
            with torch.no_grad():
                weight = own.detach().to(self._dtype)
            if maybe_current_level() is None:  # no tensor of a transform outlives it
                self.weights |= dict.fromkeys(names, weight)
        return weight

    def dtype_of(self, value: Tensor) -> torch.dtype | None:
        """Return the dtype that a weight is read in; None of what is none of them."""
        return self._dtype if id(value) in self._originals else None


def converted_weights(fn: object) -> list[Tensor]:
    """Return the weights that were converted for a function, which nothing else can change.

    >>> half = nn.Linear(2, 2, bias=False).bfloat16()
    >>> fn = convert_weights(half, torch.float32)
    >>> _ = fn(torch.ones(2))
    >>> len(converted_weights(fn)), converted_weights(half)
    (1, [])
    """
    found = (each for each in reached_from(fn) if isinstance(each, Converted))
    return [weight for one in found for weight in one.weights.values()]


class _ReadConverted(TorchFunctionMode):
    """Lets the functions of torch read converted weights."""

    def __init__(self, converted: Converted) -> None:
        super().__init__()
        self._converted = converted

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func == _DTYPE:
            return self._converted.dtype_of(args[0]) or func(*args, **(kwargs or {}))
        if func in _ATTRIBUTES_ONLY or _reads_attribute(func):
            return func(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Tensor, self._converted.read, (args, kwargs or {}))
        return func(*args, **kwargs)


def _reads_attribute(func: Callable[..., Any]) -> bool:
    attribute = getattr(func, "__self__", None)
    is_getter = getattr(func, "__name__", "") == "__get__"
    return is_getter and getattr(attribute, "__name__", "") not in _ENTRIES


class _Caller(nn.Module):
    """A function that calls a network, as a module that holds it, whose weights can be replaced."""

    def __init__(self, fn: Callable[..., Any], network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._call = partial(fn)  # a module among the attributes would be found twice

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every attribute of every module that is a parameter or a buffer, once.

    A tied weight has several names, and is replaced at all of them. A module that occurs several
    times has one name here: torch would take its second replacement for the original.

    >>> [name for name, _ in named_tensors(nn.Linear(2, 1))]
    ['weight', 'bias']
    """
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from module.named_buffers(prefix, recurse=False, remove_duplicate=False)
