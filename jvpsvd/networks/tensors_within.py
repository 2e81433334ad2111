"""The tensors within what a module or a function returns: tuples, dicts and dataclasses of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Path = tuple[Hashable, ...]
"""Indices, keys and names of fields that lead to a tensor; empty where it is returned itself."""


def replace_parts(
    output: Any, see: Callable[[Path, Tensor], Tensor | None], path: Path = ()
) -> Any:
    """Return the output with what `see` returns in place of each floating tensor in it.

    Where `see` returns None, a tensor stays; nested and empty ones always do. Containers that
    change are copied.

    >>> replace_parts({"a": (torch.ones(1), 3)}, lambda path, value: 2 * value)
    {'a': (tensor([2.]), 3)}
    """
    if isinstance(output, Tensor):
        if not output.is_floating_point() or output.is_nested or not output.numel():
            return output  # no Jacobian leads to it
        replacement = see(path, output)
        return output if replacement is None else replacement
    changed = {}
    for key, value in _entries(output):
        replacement = replace_parts(value, see, (*path, key))
        if replacement is not value:
            changed[key] = replacement
    return _with_entries(output, changed) if changed else output


def path_names(path: Path) -> tuple[str, str]:
    """Return a path as it is added to a name, and the same with brackets throughout.

    >>> path_names(("past", 0, "a.b"))
    (".past[0]['a.b']", "['past'][0]['a.b']")
    """
    brackets = [f"[{key!r}]" for key in path]
    dots = [
        f".{key}" if isinstance(key, str) and key.isidentifier() else bracket
        for key, bracket in zip(path, brackets, strict=True)
    ]
    return "".join(dots), "".join(brackets)


def _entries(output: Any) -> Sequence[tuple[Any, Any]]:
    if isinstance(output, Mapping):  # transformers' ModelOutput is a dataclass as well
        return list(output.items())
    if isinstance(output, torch.Size):
        return ()
    if isinstance(output, tuple | list):
        return list(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output)]
        return [(name, getattr(output, name)) for name in names if hasattr(output, name)]
    return ()


def _with_entries(output: Any, changed: Mapping[Any, Any]) -> Any:
    if isinstance(output, tuple):
        names = getattr(output, "_fields", range(len(output)))
        entries = [changed.get(name, value) for name, value in zip(names, output, strict=True)]
        return getattr(output, "_make", type(output))(entries)
    made = copy.copy(output)
    for key, value in changed.items():
        if isinstance(output, Mapping | list):
            made[key] = value
        else:
            object.__setattr__(made, key, value)  # a dataclass may be frozen
    return made
