"""What the value and the derivative of a function may depend on, besides its argument.

From a function one can go on to all that Python code may read when it is called: what it closes
over, the globals that it names, the attributes, parameters, buffers, hooks and mode of modules,
attributes of other objects, entries of containers. A list of all of it, taken once, is compared
with the same list later.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from itertools import zip_longest
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from jvpsvd.operators.function.fingerprint import fingerprint, is_dense, of_transform
from jvpsvd.operators.function.modules import attribute_of

# Entries beyond which a list is not made: what holds so many is no function of a network.
_MOST_ENTRIES = 200_000
_NUMBERS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
# What is inside objects of these is not read, nor is the code of what is installed.
_OPAQUE = (*sys.stdlib_module_names, "torch", "numpy", "scipy")
_INSTALLED = ("site-packages", "dist-packages")
_Reader = Callable[[Any], Iterator[tuple[str, Any]]]
_GLOBAL_HOOKS = tuple(name for name in vars(torch_modules) if name.startswith("_global_"))


class _Entry(NamedTuple):
    """A thing that a function may read: compared by identity, by value or by content."""

    parent: int
    name: str
    held: Any
    """Compared by identity, and kept alive, so that nothing else gets its address."""
    mark: Any
    """Compared by value."""
    content: Any
    """Compared by entries: a copy of an array, if wanted the fingerprint of a tensor; else kept
    alive."""


class FunctionState:
    """All that the value of a function may depend on besides its argument, at one time.

    Not seen are changes of what no Python object holds (files, the environment, the inside of
    objects of C++), of the code of installed packages and of what it holds for the whole process,
    and, unless `contents` is set, of tensors through ``.data``, which torch does not count.

    Args:
        roots: The function, and its further arguments.
        contents: Whether to compare the entries of all tensors, too, by fingerprints.

    >>> net = nn.Linear(2, 2)
    >>> state = FunctionState([net])
    >>> state.change() is None
    True
    >>> _ = net.eval()
    >>> state.change()
    'fn.training'
    """

    def __init__(self, roots: list[Any], *, contents: bool = False) -> None:
        self._roots, self._contents = roots, contents
        self._entries = self._list()

    def change(self) -> str | None:
        """Return the first thing that is not what it was, in words; None if all is."""
        if self._entries is None:
            return "what fn holds, too much to compare,"
        now = self._list()
        for before, after in zip_longest(self._entries, now or ()):
            if before and after and _same(before, after, self._contents):
                continue
            return self._path(after if after and self._is_new(after) else before or after)
        return None

    def _is_new(self, entry: _Entry) -> bool:
        """Return whether an entry, behind others that are the same, was not there before."""
        place = entry.parent, entry.name
        return all((each.parent, each.name) != place for each in self._entries or ())

    def _list(self) -> list[_Entry] | None:
        entries: list[_Entry] = []
        for entry in _walk(self._roots, self._contents):
            entries.append(entry)
            if len(entries) > _MOST_ENTRIES:
                return None
        return entries

    def _path(self, entry: _Entry) -> str:
        names = [entry.name]
        entries = self._entries or []
        while entry.parent >= 0 and len(names) < 20:
            entry = entries[entry.parent]
            names.append(entry.name)
        inner = [name for name in names if name not in _UNNAMED]
        return ".".join(reversed(inner))


_UNNAMED = ("", "__wrapped__", "_parameters", "_buffers", "_modules")


def _walk(roots: list[Any], contents: bool) -> Iterator[_Entry]:
    named = [*zip(_names_of(roots), roots, strict=True), *_process_state()]
    pending = deque((-1, name, root) for name, root in named)
    seen: set[int] = set()
    readers: dict[type, _Reader] = {}
    number = 0
    while pending:
        parent, name, value = pending.popleft()
        kind = type(value)
        if kind in _NUMBERS:
            yield _Entry(parent, name, None, (kind, value if value == value else "nan"), None)
        elif isinstance(value, Tensor):
            yield _of_tensor(parent, name, value, contents and id(value) not in seen)
            if id(value) not in seen:
                seen.add(id(value))
                pending.extend((number, label, held) for label, held in vars(value).items())
        else:
            # A method is made anew whenever it is asked for; what it is made of follows.
            content = value.copy() if isinstance(value, np.ndarray) else value
            yield _Entry(parent, name, None if kind is MethodType else value, None, content)
            if id(value) not in seen:
                seen.add(id(value))
                if kind not in readers:
                    readers[kind] = _reader(kind)
                pending.extend((number, label, held) for label, held in readers[kind](value))
        number += 1


def _names_of(roots: list[Any]) -> list[str]:
    return ["fn", *(f"argument {index}" for index in range(1, len(roots)))]


def _process_state() -> Iterator[tuple[str, Any]]:
    """Yield what torch holds for the whole process."""
    yield from ((f"torch's {name}", getattr(torch_modules, name)) for name in _GLOBAL_HOOKS)
    for kind in ("cpu", "cuda"):
        yield f"autocast on {kind}", torch.is_autocast_enabled(kind)
        yield f"autocast on {kind}", torch.get_autocast_dtype(kind)


def _of_tensor(parent: int, name: str, value: Tensor, content: bool) -> _Entry:
    plain = is_dense(value)
    mark = (
        0 if value.is_inference() else value._version,
        value.requires_grad,
        (value.shape, value.stride(), value.data_ptr()) if plain else None,
    )
    if content and not of_transform(value):
        return _Entry(
            parent, name, value, mark, fingerprint(value) if plain else value.detach().clone()
        )
    # The memory is kept alive, so that `value.data = …` cannot get the same address again.
    return _Entry(parent, name, value, mark, value.untyped_storage() if plain else None)


def _same(before: _Entry, after: _Entry, contents: bool) -> bool:
    if before.held is not after.held or before.name != after.name or before.mark != after.mark:
        return False
    ours, theirs = before.content, after.content
    if isinstance(ours, np.ndarray):
        return np.array_equal(ours, theirs)
    return not contents or not isinstance(ours, Tensor) or torch.equal(ours, theirs)


def _reader(kind: type) -> _Reader:
    """Return the function that yields what can be read through a value of a type, by name."""
    for kinds, reader in _READERS:
        if issubclass(kind, kinds):
            return reader
    return _read_opaque if _root(kind) in _OPAQUE else _read_object


def _read_opaque(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the function that an object of a library is made of, such as a cache of one."""
    wrapped = attribute_of(value, "__wrapped__")
    if wrapped is not None:
        yield "", wrapped


def _read_mapping(value: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, each in value.items():
        if type(key) is not str:
            yield "", key
        yield key if type(key) is str else "", each


def _read_entries(value: Any) -> Iterator[tuple[str, Any]]:
    yield from ((str(index), each) for index, each in enumerate(value))


def _read_method(value: MethodType) -> Iterator[tuple[str, Any]]:
    yield from (("", value.__self__), (value.__func__.__name__, value.__func__))


def _read_partial(value: partial[Any]) -> Iterator[tuple[str, Any]]:
    yield from (("", value.func), ("args", value.args), ("keywords", value.keywords))


def _read_wrapped(value: Any) -> Iterator[tuple[str, Any]]:
    yield "", value.fget if isinstance(value, property) else value.__func__


def _read_scripted(value: torch.jit.ScriptModule) -> Iterator[tuple[str, Any]]:
    yield from (*value.named_parameters(), *value.named_buffers())
    # One that is frozen has no mode.
    yield from (("training", getattr(module, "training", None)) for module in value.modules())


def _read_object(value: Any) -> Iterator[tuple[str, Any]]:
    yield "", type(value)
    for name, held in (attribute_of(value, "__dict__") or {}).items():
        if type(held) not in (dict, OrderedDict) or held:  # most hooks of most modules are none
            yield name, held
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and name != "__dict__":
                yield name, getattr(value, name)


def _read_class(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the bases and the attributes of a class; of one of a library, only what is called."""
    if issubclass(cls, nn.Module):
        yield "forward", cls.forward
    if _of_library(cls):
        return
    yield "", cls.__mro__
    for name, value in vars(cls).items():
        if name == "__call__" or not name.startswith("__"):
            yield name, value


def _read_function(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    yield "", fn.__code__
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not assigned yet
            yield name, None
    if _of_library(fn):  # torch notes on its own functions what it has made of them
        return
    yield from (("", fn.__defaults__), ("", fn.__kwdefaults__), ("", fn.__dict__))
    names = _names(fn.__code__)
    for name in names:
        if name in fn.__globals__:
            value = fn.__globals__[name]
            yield name, value
            if isinstance(value, ModuleType):
                yield from ((n, vars(value)[n]) for n in names if n in vars(value))


def _names(code: CodeType) -> list[str]:
    """Return the globals and attributes that a function and those defined in it name."""
    inner = [
        each for const in code.co_consts if isinstance(const, CodeType) for each in _names(const)
    ]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _root(value: Any) -> str:
    return str(attribute_of(value, "__module__") or "builtins").partition(".")[0]


def _of_library(value: Any) -> bool:
    """Return whether a function or class is of installed code, which is not read."""
    root = _root(value)
    if root == "__main__" or (root == "builtins" and isinstance(value, FunctionType)):
        return False
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root in (*_OPAQUE, "jvpsvd") or any(part in file for part in _INSTALLED)


_READERS: tuple[tuple[type | tuple[type, ...], _Reader], ...] = (
    ((np.ndarray, ModuleType, Enum), _read_opaque),
    (Mapping, _read_mapping),
    ((list, tuple, set, frozenset, deque), _read_entries),
    (MethodType, _read_method),
    (partial, _read_partial),
    ((staticmethod, classmethod, property), _read_wrapped),
    (FunctionType, _read_function),
    (type, _read_class),
    (torch.jit.ScriptModule, _read_scripted),
    ((nn.Module, SimpleNamespace, Namespace), _read_object),
)
