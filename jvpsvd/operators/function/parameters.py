"""Call a module with other parameters than its own: in another dtype, or as the argument."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from jvpsvd.arguments import listed_names, shown
from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.operators.function.modules import called_module

Evaluate = Callable[[dict[str, Tensor], tuple[Any, ...], Mapping[str, Any]], Any]


def convert_weights(fn: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    """Return fn as it computes with copies of its network's weights in this dtype.

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
    weights = _convert_tensors(network, dtype)
    if fn is network:
        return lambda *args, **kwargs: _call_with(network, weights, args, kwargs)
    caller = _Caller(fn, network)
    of_caller = {f"network.{name}": weight for name, weight in weights.items()}
    return lambda *args, **kwargs: _call_with(caller, of_caller, args, kwargs)


class _Caller(nn.Module):
    """A function that calls a network, as a module that holds it, whose weights can be replaced."""

    def __init__(self, fn: Callable[..., Any], network: nn.Module) -> None:
        super().__init__()
        self._fn, self.network = fn, network

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._fn(*args, **kwargs)


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


def choose_parameters(
    model: nn.Module, names: Iterable[str] | None, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], Evaluate]:
    """Return the parameters of these names, and the model as a function of them.

    Raises:
        ModelError: If there is no parameter, or none of that name.

    >>> theta, evaluate = choose_parameters(nn.Linear(2, 1), ["bias"], None)
    >>> evaluate({"bias": torch.tensor([3.0])}, (torch.zeros(2),), {})
    tensor([3.], grad_fn=<ViewBackward0>)
    """
    own = dict(model.named_parameters())
    check_dtype(dtype)
    first = {id(parameter): name for name, parameter in own.items()}
    # A parameter that has several names goes by its first one.
    aliases = {
        name: first[id(parameter)]
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    given = [names] if isinstance(names, str) else names
    if given is not None:
        given = listed_names("names", given)
    wanted = dict.fromkeys(own if given is None else (aliases.get(name, name) for name in given))
    for name in wanted:
        if name not in own:
            similar = difflib.get_close_matches(name, own, n=1)
            hint = (
                f"did you mean '{similar[0]}'?"
                if similar
                else f"there are {', '.join([*own][:6])}, …"
            )
            raise ModelError(f"{type(model).__name__} has no parameter '{name}'; {hint}")
    chosen = [name for name in own if name in wanted]
    if not chosen:
        raise ModelError(f"{type(model).__name__} has no parameter to differentiate by")
    weights = {} if dtype is None else _convert_tensors(model, dtype)
    theta = {name: weights.get(name, own[name]).detach() for name in chosen}
    named = list(_named_tensors(model))
    names_of = {c: [name for name, tensor in named if tensor is own[c]] for c in chosen}

    def evaluate(
        values: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        given = {alias: value for name, value in values.items() for alias in names_of[name]}
        return _call_with(model, {**weights, **given}, args, kwargs)

    return theta, evaluate


class OfParameters:
    """A model at a fixed input, as a function of its parameters.

    >>> theta, evaluate = choose_parameters(nn.Linear(2, 1), ["bias"], None)
    >>> fn = OfParameters(nn.Linear(2, 1), evaluate, torch.zeros(1, 2), (), {})
    >>> fn({"bias": torch.tensor([3.0])})
    tensor([[3.]], grad_fn=<AddmmBackward0>)
    """

    def __init__(
        self,
        model: nn.Module,
        evaluate: Evaluate,
        x: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        self.__wrapped__ = model  # for `called_module`
        self._evaluate, self.input, self._args, self._kwargs = evaluate, x, tuple(args), kwargs

    def __call__(self, values: dict[str, Tensor]) -> Any:
        """Return the model's value with parameters of these values."""
        return self.at_input(self.input, values)

    def at_input(self, x: Any, values: dict[str, Tensor]) -> Any:
        """Return the same at another input."""
        return self._evaluate(values, (x, *self._args), self._kwargs)


def _call_with(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a model with other tensors instead of some of its own; names as of `_named_tensors`."""
    return functional_call(model, dict(weights), args, dict(kwargs), tie_weights=False)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every attribute of every module that is a parameter or a buffer, once.

    A tied weight has several names, and is replaced at all of them. A module that occurs several
    times has one name here: torch would take its second replacement for the original.
    """
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from module.named_buffers(prefix, recurse=False, remove_duplicate=False)


def _convert_tensors(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating parameters and buffers in this dtype; what is tied stays tied."""
    named = [(name, own) for name, own in _named_tensors(model) if own.is_floating_point()]
    copies = {id(own): own.detach().to(dtype) for own in dict(named).values()}
    return {name: copies[id(own)] for name, own in named}
