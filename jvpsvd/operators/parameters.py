"""A module with other parameters than its own: converted to a dtype, or as the argument."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.operators.arguments import listed_names, shown

Evaluate = Callable[[dict[str, Tensor], tuple[Any, ...], Mapping[str, Any]], Any]


def converted(fn: Callable[..., Any], dtype: torch.dtype | None) -> Callable[..., Any]:
    """Return a module as a function that computes with copies of its weights in this dtype.

    Raises:
        ArgumentError: If it is no module, or the dtype is not real floating.

    >>> half = nn.Linear(2, 2).bfloat16()
    >>> converted(half, torch.float32)(torch.ones(2)).dtype, half.weight.dtype
    (torch.float32, torch.bfloat16)
    """
    if dtype is None:
        return fn
    check_dtype(dtype)
    if not isinstance(fn, nn.Module):
        raise ArgumentError(
            f"dtype={dtype} converts the weights of a module, and fn is a {type(fn).__name__}; "
            "convert what it computes with yourself"
        )
    weights = _weights(fn, dtype)
    return lambda *args, **kwargs: _called_with(fn, weights, args, kwargs)


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


def chosen_parameters(
    model: nn.Module, names: Iterable[str] | None, dtype: torch.dtype | None
) -> tuple[dict[str, Tensor], Evaluate]:
    """Return the parameters of these names, and the model as a function of them.

    Raises:
        ModelError: If there is no parameter, or none of that name.

    >>> theta, evaluate = chosen_parameters(nn.Linear(2, 1), ["bias"], None)
    >>> evaluate({"bias": torch.tensor([3.0])}, (torch.zeros(2),), {})
    tensor([3.], grad_fn=<ViewBackward0>)
    """
    own = dict(model.named_parameters())
    check_dtype(dtype)
    first = {id(parameter): name for name, parameter in own.items()}
    # A parameter that is known under several names goes by its first one.
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
            near = difflib.get_close_matches(name, own, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join([*own][:6])}, …"
            raise ModelError(f"{type(model).__name__} has no parameter '{name}'; {hint}")
    chosen = [name for name in own if name in wanted]
    if not chosen:
        raise ModelError(f"{type(model).__name__} has no parameter to differentiate by")
    weights = {} if dtype is None else _weights(model, dtype)
    theta = {name: weights.get(name, own[name]).detach() for name in chosen}
    named = list(_named_tensors(model))
    places = {c: [name for name, tensor in named if tensor is own[c]] for c in chosen}

    def evaluate(
        values: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        given = {place: value for name, value in values.items() for place in places[name]}
        return _called_with(model, {**weights, **given}, args, kwargs)

    return theta, evaluate


class OfParameters:
    """A model at a fixed input, as a function of its parameters.

    >>> theta, evaluate = chosen_parameters(nn.Linear(2, 1), ["bias"], None)
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
        self.__wrapped__ = model  # for `module_of`
        self._evaluate, self.input, self._args, self._kwargs = evaluate, x, tuple(args), kwargs

    def __call__(self, values: dict[str, Tensor]) -> Any:
        """Return the model's value with parameters of these values."""
        return self.at_input(self.input, values)

    def at_input(self, x: Any, values: dict[str, Tensor]) -> Any:
        """Return the same at another input."""
        return self._evaluate(values, (x, *self._args), self._kwargs)


def _called_with(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Call a model with other tensors in the place of some of its own, named as below."""
    return functional_call(model, dict(weights), args, dict(kwargs), tie_weights=False)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every attribute of every module that is a parameter or a buffer, once.

    A weight that is tied has several, and is to be replaced at all of them. A module that stands at
    several places has one name here: torch would take its second replacement for the original.
    """
    for prefix, module in model.named_modules():
        yield from module.named_parameters(prefix, recurse=False, remove_duplicate=False)
        yield from module.named_buffers(prefix, recurse=False, remove_duplicate=False)


def _weights(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating parameters and buffers in this dtype; what is tied stays tied."""
    named = [(name, own) for name, own in _named_tensors(model) if own.is_floating_point()]
    copies = {id(own): own.detach().to(dtype) for own in dict(named).values()}
    return {name: copies[id(own)] for name, own in named}
