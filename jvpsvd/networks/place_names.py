"""Names of the places in a forward pass.

A module's output has the module's name, with @call where the module is called several times. What a
function computes has the name that torch.fx and torchvision's feature extraction give it: the
module whose forward calls it, the function, and _1, _2, … from the second call on, as in
`layer1.0.add`. Parts of a tuple, dict or dataclass add their index or key: `output.logits`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

from jvpsvd.networks.tensors_within import Path, path_names

OUTPUT = "output"

_REFLECTED = {
    "__rsub__": "sub",
    "__rdiv__": "div",
    "__rpow__": "pow",
    "__rfloordiv__": "floordiv",
    "__rmod__": "remainder",
    "__rmatmul__": "matmul",
}


@dataclass(frozen=True)
class Place:
    """Where in a forward pass a tensor is computed."""

    module: str
    """Name of the module that returns it, or whose forward calls the function; "" is the model."""
    function: str
    """Name of the function; empty for what the module returns."""
    number: int
    """Which call of the module, or of the function by this module, from 1."""
    path: Path = ()
    """Where it is within what is returned."""

    @property
    def base(self) -> str:
        """The name without the number of the call and the path."""
        if self.function:
            return f"{self.module}.{self.function}" if self.module else self.function
        return self.module or OUTPUT

    @property
    def bases(self) -> tuple[str, str]:
        """The name without the path: without the number of the call and with it."""
        return self.base, f"{self.base}@{self.number}"


def name_places(places: Sequence[Place], modules: Collection[str]) -> list[str]:
    """Return the names of the places of one forward pass, no two alike.

    Modules keep their names, whatever functions are called and keys a dict has.

    Args:
        places: The places.
        modules: Names of all modules of the network.

    >>> name_places([Place("", "relu", 1), Place("", "relu", 2), Place("", "", 1, (0,))], ["relu"])
    ['relu_1', 'relu_2', 'output[0]']
    """
    taken = {OUTPUT, *modules}
    calls: dict[str, int] = {}
    for place in places:
        if not place.function:
            calls[place.base] = max(calls.get(place.base, 0), place.number)
    names: dict[Place, str] = {}
    for place in places:
        if not place.function:
            base = place.base if calls[place.base] == 1 else f"{place.base}@{place.number}"
            names[place] = _name_part(base, place.path, taken)
    taken |= {prefix for place in names for prefix in _prefixes(place.base, place.path)}
    for place in places:
        if place.function:
            names[place] = _name_part(_name_function(place, taken), place.path, taken)
    return [names[place] for place in places]


def _name_part(base: str, path: Path, taken: Set[str]) -> str:
    """Return base and path with dots, or with brackets where dots would name something else."""
    dots, brackets = path_names(path)
    return base + (brackets if taken & set(_prefixes(base, path)) else dots)


def _prefixes(base: str, path: Path) -> list[str]:
    return [base + path_names(path[: length + 1])[0] for length in range(len(path))]


def _name_function(place: Place, taken: Set[str]) -> str:
    """Return the name of the function's n-th call: the n-th that nothing else has."""
    numbered = (f"{place.base}_{index}" if index else place.base for index in count())
    free = (name for name in numbered if name not in taken)
    return next(islice(free, place.number - 1, None))


def name_of_function(func: Callable[..., Any]) -> str:
    """Return what a function of torch computes, in one word.

    Operators, methods and functions, in place or not, have one name, as far as torch knows no
    difference: `x + y`, `x += y`, `x.add_(y)` and `torch.add(x, y)` are "add".

    >>> import torch
    >>> [name_of_function(func) for func in (torch.relu, torch.Tensor.add_, torch.Tensor.T.__get__)]
    ['relu', 'add', 'T']
    """
    name = str(getattr(func, "__name__", type(func).__name__))
    if name == "__get__":  # of a property
        name = getattr(func, "__self__", func).__name__
    name = _REFLECTED.get(name, name).partition(".")[0]  # the rest is an overload's
    return re.sub(r"_\d+$", "", name.strip("_"))
