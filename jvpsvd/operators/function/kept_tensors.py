"""Undo what a function keeps between calls outside of modules.

A function may keep a tensor of its first call in a closure, a global, a container or an attribute,
and take it for a constant in later ones, so that its derivative lacks a part.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import is_
from types import CellType, FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from jvpsvd.operators.function.state import (
    NUMBERS,
    Unread,
    attributes_of,
    is_installed,
    names_in,
    read,
)

# Objects beyond which no more are looked at; the nearest come first.
_MOST_OBJECTS = 20_000
# Containers of more entries are data, and are left as they are.
_MOST_ENTRIES = 10_000
_DEEPEST = 6
_WEIGHTS = ("_parameters", "_buffers", "_modules")
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
# Where our own wrappers hold further arguments, which are the user's.
_ARGUMENTS = ("args", "kwargs", "named", "_args", "_kwargs", "input")
_Entries = dict[Any, Any] | list[Any]


class _Holder(NamedTuple):
    """What a function may change: a container, or the variables of an object."""

    take: Callable[[], _Entries]
    put: Callable[[_Entries], None]
    is_list: bool = False


class KeptTensors(Unread):
    """The containers, attributes and variables that a function can reach, to be restored.

    These are what `FunctionState` reads: what the function closes over, the globals that it names,
    attributes of objects and classes of the user, entries of containers. Attributes of modules are
    restored by `restored_attributes`.

    >>> from functools import partial
    >>> kept = {}
    >>> fn = partial(lambda kept, x: kept.setdefault("h", x.tanh()), kept)
    >>> with KeptTensors(fn).restored():
    ...     _ = fn(torch.ones(2))
    >>> kept
    {}
    """

    @classmethod
    def of(cls, fn: object) -> KeptTensors:
        """Return what fn can reach, as it was found for an evaluation that is going on, if any."""
        for kept in _restoring.get():
            if kept._covers(fn):
                return kept
        return cls(fn)

    def __init__(self, fn: object) -> None:
        self._fn = fn
        self.modules: list[nn.Module] = []
        """The networks that fn can reach."""
        self.tensors: list[tuple[str, Tensor | np.ndarray]] = []
        """Tensors and arrays, by name, without parameters and buffers of modules."""
        self._holders: list[_Holder] = []
        self._search()

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore all of it at the end if anything gained or lost a tensor, an array or a float.

        Flags that say that a tensor is there are restored with it. Otherwise all stays: counters,
        and lists of numbers, are a user's records.
        """
        before = self.take()
        token = _restoring.set((self, *_restoring.get()))
        try:
            yield
        finally:
            _restoring.reset(token)
            changed = [
                (holder, old, new) for holder, old in before if not _same(old, new := holder.take())
            ]
            if any(_keeps(old, new, holder.is_list) for holder, old, new in changed):
                for holder, old, _ in changed:
                    holder.put(old)
            elif changed:
                self._search()  # there may be new containers

    def take(self) -> list[tuple[_Holder, _Entries]]:
        """Return all entries as they are now."""
        return [(holder, holder.take()) for holder in self._holders]

    @staticmethod
    def put(entries: list[tuple[_Holder, _Entries]]) -> None:
        """Restore entries that were taken before."""
        for holder, old in entries:
            if not _same(old, holder.take()):
                holder.put(old)

    def _covers(self, fn: object) -> bool:
        """Return whether fn is the function, one of our own wrappers of it, or its network."""
        while fn is not None and fn is not self._fn and _is_ours(type(fn)):
            fn = getattr(fn, "__wrapped__", None)
        return fn is self._fn or any(fn is module for module in self.modules)

    def _search(self) -> None:
        self.modules, self.tensors, self._holders = [], [], []
        seen: set[int] = set()
        pending: deque[tuple[str, Any, bool]] = deque([("", self._fn, False)])
        while pending and len(seen) < _MOST_OBJECTS:
            name, value, ours = pending.popleft()
            kind = type(value)
            if kind in NUMBERS or issubclass(kind, Unread) or id(value) in seen:
                continue
            seen.add(id(value))
            if issubclass(kind, _CONTAINERS) and len(value) > _MOST_ENTRIES:
                continue
            if issubclass(kind, Tensor | np.ndarray):
                self.tensors.append((name, value))
                continue
            if issubclass(kind, nn.Module):
                self.modules.append(value)
                parts = list(value.modules())
                seen.update(map(id, parts))
                pending.extend(
                    (inner, held, False) for part in parts for inner, held in _held_by_module(part)
                )
                continue
            # Our own wrappers are searched for a user's function; what they keep is not the user's.
            mine = ours and issubclass(kind, _CONTAINERS)
            if not mine:
                self._holders += _holders_of(value)
            own = mine or _is_ours(value if kind is FunctionType else kind)
            if _is_searched(value):
                pending.extend(
                    (inner or name, held, own and inner not in _ARGUMENTS)
                    for inner, held in read(value)
                )


_restoring: ContextVar[tuple[KeptTensors, ...]] = ContextVar("restoring", default=())
"""Of the evaluations that are going on, the innermost first."""


def _is_ours(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "jvpsvd"


def _is_searched(value: Any) -> bool:
    """Return whether a value may lead to a user's objects: no object of installed code does."""
    kind = type(value)
    plain = kind.__module__ in ("builtins", "types", "functools", "collections")
    return plain or _is_ours(kind) or not is_installed(kind)


def _held_by_module(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if isinstance(module, torch.jit.ScriptModule):
        return
    yield "", type(module)
    for name, value in vars(module).items():
        kind = type(value)
        if kind in NUMBERS or name in _WEIGHTS:
            continue
        if kind in _CONTAINERS and len(value) > _MOST_ENTRIES:
            continue
        # Entries of its own containers, such as hooks: these are restored with the attributes.
        if kind in (dict, OrderedDict):
            yield from ((name, each) for each in value.values())
        elif kind in (list, set, tuple):
            yield from ((name, each) for each in value if type(each) not in NUMBERS)
        else:
            yield name, value


def _holders_of(value: Any) -> Iterator[_Holder]:
    kind = type(value)
    if issubclass(kind, FunctionType):
        if not is_installed(value):
            yield from (_of_cell(cell) for cell in value.__closure__ or ())
            yield from _of_globals(value)
            yield _of_mapping(vars(value))
        return
    if issubclass(kind, type):
        if not is_installed(value):
            yield _of_class(value)
        return
    if issubclass(kind, dict):
        yield _of_mapping(value)
    elif issubclass(kind, list):
        yield _Holder(
            lambda: list(value), lambda old: list.__setitem__(value, slice(None), old), True
        )
    elif issubclass(kind, set | deque):
        yield _of_collection(value)
    if is_installed(kind) and kind.__module__ != "types":  # such as SimpleNamespace
        return
    attributes = attributes_of(value)
    if isinstance(attributes, dict):
        yield _of_mapping(attributes)
    slots = _slots(kind)
    if slots:
        yield _of_names(
            lambda: {name: getattr(value, name) for name in slots if hasattr(value, name)},
            lambda name, old: object.__setattr__(value, name, old),
            lambda name: object.__delattr__(value, name),
        )


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for cls in kind.__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _of_mapping(value: dict[Any, Any]) -> _Holder:
    base = OrderedDict if isinstance(value, OrderedDict) else dict

    def put(old: Any) -> None:
        base.clear(value)  # not by methods of a class of the user
        for key, each in old.items():
            base.__setitem__(value, key, each)

    return _Holder(lambda: dict(base.items(value)), put)


def _of_collection(value: Any) -> _Holder:
    def put(old: Any) -> None:
        value.clear()
        (value.extend if isinstance(value, deque) else value.update)(old)

    return _Holder(lambda: list(value), put, True)


def _of_cell(cell: CellType) -> _Holder:
    def take() -> _Entries:
        try:
            return {"cell_contents": cell.cell_contents}
        except ValueError:  # not assigned yet
            return {}

    return _of_names(
        take,
        lambda name, old: setattr(cell, name, old),
        lambda name: delattr(cell, name),
    )


def _of_globals(fn: FunctionType) -> Iterator[_Holder]:
    names = names_in(fn.__code__)
    spaces = [fn.__globals__]
    for name in names:
        module = fn.__globals__.get(name)
        if type(module) is ModuleType and not is_installed(module):
            spaces.append(vars(module))
    yield from (_of_variables(space, names) for space in spaces)


def _of_variables(space: dict[str, Any], names: list[str]) -> _Holder:
    return _of_names(
        lambda: {name: space[name] for name in names if name in space},
        space.__setitem__,
        space.__delitem__,
    )


def _of_class(cls: type) -> _Holder:
    return _of_names(
        lambda: {name: held for name, held in vars(cls).items() if not name.startswith("__")},
        lambda name, old: type.__setattr__(cls, name, old),
        lambda name: type.__delattr__(cls, name),
    )


def _of_names(
    take: Callable[[], _Entries],
    assign: Callable[[str, Any], None],
    delete: Callable[[str], None],
) -> _Holder:
    def put(old: Any) -> None:
        now: Any = take()
        for name in now:
            if name not in old:
                delete(name)
        for name, held in old.items():
            if name not in now or now[name] is not held:
                assign(name, held)

    return _Holder(take, put)


def _same(old: Any, new: Any) -> bool:
    """Return whether entries are the same objects in the same order."""
    if len(old) != len(new) or not all(map(is_, old, new)):
        return False
    return not isinstance(old, dict) or all(map(is_, old.values(), new.values()))


def _keeps(old: Any, new: Any, is_list: bool) -> bool:
    """Return whether an entry that came or went holds a tensor, an array or a float."""
    ours, theirs = (list(each.values()) if isinstance(each, dict) else each for each in (old, new))
    known, found = {id(each) for each in ours}, {id(each) for each in theirs}
    came_or_went = [each for each in theirs if id(each) not in known]
    came_or_went += [each for each in ours if id(each) not in found]
    return any(_holds_tensor(each, not is_list) for each in came_or_went)


def _holds_tensor(value: Any, floats: bool, depth: int = 0) -> bool:
    """Return whether a tensor or an array is in a value; if wanted, a float counts as one.

    Floats in a list are records, such as losses and times.
    """
    kind = type(value)
    if issubclass(kind, float | complex | np.floating):
        return floats
    if kind in NUMBERS or issubclass(kind, np.generic):
        return False
    if issubclass(kind, Tensor | nn.Module) or hasattr(kind, "__array__"):
        return True
    if depth > _DEEPEST or issubclass(kind, type | ModuleType):
        return False
    if issubclass(kind, list | deque):
        floats = False
    if issubclass(kind, dict | list | tuple | set | frozenset | deque | FunctionType):
        entries = [held for _, held in read(value)]
    else:
        entries = []
    entries += list(attributes_of(value).values())
    return any(_holds_tensor(each, floats, depth + 1) for each in entries)
