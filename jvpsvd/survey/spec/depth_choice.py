"""Which depths of a network a survey visits."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from jvpsvd.arguments import first_names, listed_names
from jvpsvd.data.inputs import as_written
from jvpsvd.errors import ArgumentError, JvpsvdError, ModelError
from jvpsvd.networks import Arguments, Depth, Model, depths
from jvpsvd.networks.chosen_arguments import find_embedding
from jvpsvd.networks.depth import with_values
from jvpsvd.networks.published import OWN_FUNCTION
from jvpsvd.networks.zoo import PUBLISHED
from jvpsvd.operators.function.failures import first_line

_DEFAULT_DEPTHS = 5
_FEW_BLOCKS = 8
_NUMBERED = "[0-9](@[0-9]+)?$"
_SHOWN = 12


class DepthList(NamedTuple):
    """Depths at which a network can be cut, after that from which it is differentiated."""

    depths: list[Depth]
    start: tuple[int, ...]
    """Shape of what it is differentiated by."""


def choose_depths(model: Model, k: int, layers: str | Sequence[str] | None) -> list[Depth]:
    """Return the named depths in the order of the network.

    Unless they are named, depths are those of modules that return a tensor: there are few enough of
    them, and runs that were begun before other depths were known can go on.

    Args:
        model: The network.
        k: Triplets wanted of each depth.
        layers: Names from `depths`, which may have fewer than k triplets; or None for five modules
            spread over the network, or ["all"] modules, both of those that have k, if there are
            such.

    Raises:
        ArgumentError: If k is below 1, or no layer is named.
        ModelError: If a layer is unknown, or the network cannot be evaluated.
    """
    return choose_depths_after(model, k, layers).depths


def choose_depths_after(model: Model, k: int, layers: str | Sequence[str] | None) -> DepthList:
    """Return the same, and the shape of what the network is differentiated by."""
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    layers = None if layers is None else listed_names("layers", layers)
    if layers is None or layers == ["all"]:
        found, start = list_depths(model, functions=False)
        modules = [depth for depth in found if not depth.part] or found
        choose = _spread if layers is None else with_values
        return DepthList(choose(modules, k, math.prod(start)), start)
    if not layers:
        raise ArgumentError("no layer is named; give names with commas between, or all")
    every, start = list_depths(model, functions=True)
    for name in layers:
        if name not in {depth.name for depth in every}:
            after = "" if model.since is None else f" after '{model.since}'"
            raise ModelError(
                f"no layer '{name}'{after} in {model.spec}; {_near(name, model, every)}"
            )
    return DepthList([depth for depth in every if depth.name in layers], start)


def choose_blocks(every: Sequence[Depth]) -> list[Depth]:
    """Return the depths that are blocks of a network, rather than what blocks are made of.

    Blocks are modules with a number in their name, such as `layer1`, `_blocks.3` or
    `transformer.h.8`, and what lies outside of them. Where these are few, the network lies within
    a few numbered modules, and the blocks within those are taken.

    >>> names = ["stem", *(f"h.{i}{end}" for i in range(9) for end in (".fc", "")), "output"]
    >>> [d.name for d in choose_blocks([Depth(name, "", (1,)) for name in names])][:3]
    ['stem', 'h.0', 'h.1']
    """
    within = [_numbered_around(depth.name) for depth in every]
    chosen: list[Depth] = []
    for level in sorted(set(within)):
        chosen = [d for d, around in zip(every, within, strict=True) if around <= level]
        if len(chosen) >= _FEW_BLOCKS:
            break
    names = {depth.name for depth in chosen}
    of_blocks = {_parent(name) for name in names if re.search(_NUMBERED, name)}
    # A module of its own, as a convolution with its padding, stands for its parts.
    return [d for d in chosen if _parent(d.name) not in names - of_blocks]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _numbered_around(name: str) -> int:
    """Return how many of the modules around a depth have a number in their name.

    >>> _numbered_around("transformer.h.8"), _numbered_around("layer1.0.conv1")
    (0, 2)
    """
    return sum(bool(re.search(_NUMBERED, part)) for part in name.split(".")[:-1])


def list_depths(model: Model, *, functions: bool) -> DepthList:
    """Return the depths of the network, with what functions compute if asked.

    Raises:
        ModelError: If the network cannot be evaluated at a photo.
    """
    example = model.example()
    # What is differentiated may begin at a function, which is among the depths only if asked for.
    after_function = False
    try:
        every = depths(model.module, example, functions=functions)
        if not functions and model.since not in (None, *(depth.name for depth in every)):
            after_function = True
            every = depths(model.module, example)
    except JvpsvdError as error:
        if error.__cause__ is None:
            raise
        raise ModelError(  # the user's own network
            f"{model.spec} fails on {_describe(model, example)} "
            f"({first_line(error.__cause__)}); {_remedy(model)}"
        ) from error
    shape, names = _start_shape(model, every, example), [depth.name for depth in every]
    later = every if model.since is None else every[names.index(model.since) + 1 :]
    if after_function:
        later = [depth for depth in later if depth.kind != "function"]
    return DepthList(later, shape)


def _near(name: str, model: Model, every: Sequence[Depth]) -> str:
    """Return which depths there are, in words."""
    names = [depth.name for depth in every]
    similar = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    if _is_of_the_library(model):
        some = ", ".join(names[:_SHOWN])
        more = f" and {len(names) - _SHOWN} more (jvpsvd.depths)" if len(names) > _SHOWN else ""
        return f"{hint}it has {some}{more}"
    since = "" if model.since in (None, name) else f" --since {model.since}"
    of_functions = {depth.name for depth in every if depth.kind == "function"}
    functions = " --functions" if of_functions.intersection(similar) else ""
    return f"{hint}'jvpsvd layers --model {model.spec}{since}{functions}' lists them"


def _start_shape(model: Model, every: Sequence[Depth], example: Any) -> tuple[int, ...]:
    """Return the shape of what the network is differentiated by."""
    if model.since is not None:
        found = next((depth for depth in every if depth.name == model.since), None)
        if found is None:
            hint = _near(model.since, model, every)
            if model.since == "input":
                hint = "without since it starts at the input"
            raise ModelError(f"no layer '{model.since}' in {model.spec} to start from; {hint}")
        return found.shape
    arguments = Arguments(example, model.wrt)
    chosen = arguments.chosen
    if isinstance(chosen, Tensor) and chosen.is_floating_point():
        return tuple(chosen.shape)
    arguments.refuse_complex()
    where = "with --since, or by since= of the Spec or of its Inputs"
    if not arguments.has_floating():
        embedding = find_embedding(model.module, (depth.name for depth in every))
        raise ModelError(
            f"{model.spec} takes token ids, which have no derivative: name the depth after their "
            f"embedding {where}{f', as {embedding}' if embedding else ''}"
        )
    given = "several arguments"
    if isinstance(example, Mapping):
        names = sorted(map(str, example))  # a file of safetensors has no order
        given = f"arguments by name ({first_names(names)})"
    raise ModelError(
        f"{model.spec} is given {given}: name the one to differentiate by with wrt=, or the depth "
        f"to differentiate from {where}"
    )


def _describe(model: Model, example: Any) -> str:
    if model.inputs is None:
        return f"an input of shape {tuple(example.shape)}"
    return "the first of inputs=" if _takes_own(model) else "the arguments of its example"


def _remedy(model: Model) -> str:
    if _takes_own(model):
        return (
            "give inputs as it takes them, with the dimension of the batch and in the dtype of the "
            "weights; a dict by the names of its arguments"
        )
    if model.spec.partition(":")[0] in PUBLISHED:
        return OWN_FUNCTION
    if _is_of_the_library(model):
        return (
            "say what it takes: jvpsvd.networks.Model.of(module, PhotoInput(size=32, resize=32)), "
            "or Model.of(module, Inputs(…))"
        )
    return "return the PhotoInput or Inputs that it takes beside the module"


def _is_of_the_library(model: Model) -> bool:
    """Return whether it was given as a module, with no name that the command line could load."""
    return model.spec == type(model.module).__name__


def _takes_own(model: Model) -> bool:
    return model.inputs is not None and model.inputs.arguments is as_written


def _spread(every: list[Depth], k: int, n: int) -> list[Depth]:
    """Return five of the coarse depths (names at most one dot deep), evenly apart, the last one."""
    coarse = [depth for depth in with_values(every, k, n) if depth.name.count(".") <= 1]
    if not coarse:
        return with_values(every, k, n)[-1:]
    count = min(_DEFAULT_DEPTHS, len(coarse))
    return [coarse[(i + 1) * len(coarse) // count - 1] for i in range(count)]
