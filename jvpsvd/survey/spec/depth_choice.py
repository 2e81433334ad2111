"""Which depths of a network a survey visits."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch

from jvpsvd.errors import ArgumentError, JvpsvdError, ModelError
from jvpsvd.networks import Depth, Model, depths
from jvpsvd.operators.function.failures import first_line

_DEFAULT_DEPTHS = 5


def choose_depths(model: Model, k: int, layers: Sequence[str] | None) -> list[Depth]:
    """Return the named depths in the order of the network.

    Args:
        model: The network.
        k: Triplets wanted of each depth.
        layers: Names from `depths`, which may have fewer than k triplets; or None for five spread
            over the network, or ["all"], both of the depths that have k, if there are such.

    Raises:
        ArgumentError: If k is below 1, or no layer is named.
        ModelError: If a layer is unknown, or the network cannot be evaluated.
    """
    example = torch.zeros(model.photo_input.shape)
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    every = _list_depths(model, example)
    if layers is None:
        return _spread(every, k, example.numel())
    if not layers:
        raise ArgumentError("no layer is named; give names with commas between, or all")
    if list(layers) == ["all"]:
        return _large_enough(every, k, example.numel())
    for name in layers:
        if name not in {depth.name for depth in every}:
            near = difflib.get_close_matches(name, [depth.name for depth in every], n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ModelError(
                f"no layer '{name}' in {model.spec}; {hint}'jvpsvd layers --model {model.spec}' "
                "lists them"
            )
    return [depth for depth in every if depth.name in layers]


def _list_depths(model: Model, example: torch.Tensor) -> list[Depth]:
    try:
        return depths(model.module, example)
    except JvpsvdError as error:
        if error.__cause__ is None:
            raise
        raise ModelError(  # the user's own network
            f"{model.spec} fails on an input of shape {tuple(example.shape)} "
            f"({first_line(error.__cause__)}); "
            "return the PhotoInput that it takes beside the module"
        ) from error


def _spread(every: list[Depth], k: int, n: int) -> list[Depth]:
    """Return five of the coarse depths (names at most one dot deep), evenly apart, the last one."""
    coarse = [depth for depth in _large_enough(every, k, n) if depth.name.count(".") <= 1]
    if not coarse:
        return _large_enough(every, k, n)[-1:]
    count = min(_DEFAULT_DEPTHS, len(coarse))
    return [coarse[(i + 1) * len(coarse) // count - 1] for i in range(count)]


def _large_enough(every: list[Depth], k: int, n: int) -> list[Depth]:
    """Return the depths that have k triplets; all of them if none has."""
    return [depth for depth in every if min(depth.numel, n) >= k] or every
