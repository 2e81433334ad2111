"""Call a module with its parameters as the argument."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from jvpsvd.arguments import first_names, listed_names
from jvpsvd.errors import ModelError
from jvpsvd.operators.environment.checkpointing import kept_activations
from jvpsvd.operators.function.conversion import Converted, check_dtype, named_tensors

Evaluate = Callable[[dict[str, Tensor], tuple[Any, ...], Mapping[str, Any]], Any]


def choose_parameters(
    model: nn.Module, names: str | Iterable[str] | None, dtype: torch.dtype | None
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
    given = None if names is None else listed_names("names", names)
    wanted = dict.fromkeys(own if given is None else (aliases.get(name, name) for name in given))
    for name in wanted:
        if name not in own:
            similar = difflib.get_close_matches(name, own, n=1)
            hint = (
                f"did you mean '{similar[0]}'?" if similar else f"there are {first_names([*own])}"
            )
            raise ModelError(f"{type(model).__name__} has no parameter '{name}'; {hint}")
    chosen = [name for name in own if name in wanted]
    if not chosen:
        raise ModelError(f"{type(model).__name__} has no parameter to differentiate by")
    theta = {name: own[name].detach().to(dtype or own[name].dtype) for name in chosen}
    named = list(named_tensors(model))
    names_of = {c: [name for name, tensor in named if tensor is own[c]] for c in chosen}
    every = {name for names in names_of.values() for name in names}
    others = None if dtype is None else Converted(model, model, dtype, given=every)

    def evaluate(
        values: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        given = {alias: value for name, value in values.items() for alias in names_of[name]}
        # Copies, which a network may change in place.
        args, named = tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
        if others is not None:
            return others.call_with(given, *args, **named)
        with kept_activations():
            return functional_call(model, given, args, named, tie_weights=False)

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
        self.__wrapped__ = evaluate  # for `called_module` and `converted_weights`
        self._evaluate, self.input, self._args, self._kwargs = evaluate, x, tuple(args), kwargs

    def __call__(self, values: dict[str, Tensor]) -> Any:
        """Return the model's value with parameters of these values."""
        return self.at_input(self.input, values)

    def at_input(self, x: Any, values: dict[str, Tensor]) -> Any:
        """Return the same at another input."""
        return self._evaluate(values, (x, *self._args), self._kwargs)
