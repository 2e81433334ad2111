"""Find the networks that a function calls, and hook into all modules of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import isfunction
from typing import Any

from torch import nn
from torch.jit import RecursiveScriptModule  # type: ignore[attr-defined]

Hook = Callable[[str, nn.Module, Any, Any], Any]
"""Takes name, module, arguments and output; what it returns, if anything, replaces the output."""


def called_module(fn: object) -> nn.Module | None:
    """Return the one network that a function calls, where that can be seen.

    It is the function itself, the one whose method it is, or the only one that it closes over or
    names among its globals.

    >>> net = nn.Linear(2, 1)
    >>> called_module(lambda x: net(x).relu()) is net, called_module(max) is None
    (True, True)
    """
    if isinstance(fn, nn.Module):
        return fn
    owner = attribute_of(fn, "__self__")
    if isinstance(owner, nn.Module):
        return owner
    wrapped = attribute_of(fn, "func") or attribute_of(fn, "__wrapped__")
    if wrapped is not None:
        return called_module(wrapped)
    modules = {id(value): value for value in held_by(fn) if isinstance(value, nn.Module)}
    return next(iter(modules.values())) if len(modules) == 1 else None


def called_modules(fn: object) -> tuple[nn.Module, ...]:
    """Return the networks that a function calls, where that can be seen.

    They are the function itself, what its method is bound to, what it closes over, names among its
    globals or wraps, and the same of the functions found there.

    >>> net, head = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> features = lambda x: net(x)
    >>> sorted(module.out_features for module in called_modules(lambda x: head(features(x))))
    [1, 2]
    """
    return tuple(each for each in reached_from(fn) if isinstance(each, nn.Module))


def reached_from(fn: object) -> Iterator[object]:
    """Yield a function, and what can be seen that it calls; nothing within a module.

    >>> net = nn.Linear(2, 2)
    >>> features = lambda x: net(x)
    >>> net in reached_from(lambda x: features(x).relu())
    True
    """
    seen: set[int] = set()
    pending = [fn]
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, nn.Module):
            continue
        owner = attribute_of(each, "__self__")
        pending += [owner, attribute_of(each, "func"), attribute_of(each, "__wrapped__")]
        pending += [value for value in held_by(each) if callable(value)]
        if not isfunction(each) and not isinstance(each, type):
            attributes = attribute_of(each, "__dict__") or {}
            pending += [value for value in attributes.values() if isinstance(value, nn.Module)]


def attribute_of(value: object, name: str) -> Any:
    """Return an attribute, None where there is none or the object fails when it is asked for one.

    >>> import torch
    >>> attribute_of(max, "__name__"), attribute_of(torch.classes.quantized, "__wrapped__")
    ('max', None)
    """
    try:
        return getattr(value, name, None)
    except Exception:  # namespaces of torch.classes raise RuntimeError, and users' objects anything
        return None


def held_by(fn: object) -> list[object]:
    """Return what a function closes over, and what it names among its globals."""
    held = []
    for cell in attribute_of(fn, "__closure__") or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    names = getattr(attribute_of(fn, "__code__"), "co_names", ())
    return held + ([fn.__globals__.get(name) for name in names] if isfunction(fn) else [])


@contextmanager
def forward_hooks(network: nn.Module, hook: Hook) -> Iterator[None]:
    """Call a function after every module of a network, but for scripted ones, which have no hooks.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(2, 1))
    >>> with forward_hooks(net, lambda name, module, args, output: print(repr(name))):
    ...     _ = net(torch.ones(2))
    '0'
    ''
    """

    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], Any]:
        return lambda module, args, output: hook(name, module, args, output)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if not isinstance(module, RecursiveScriptModule):
                hooks.callback(module.register_forward_hook(hook_of(name)).remove)
        yield


def describe_module(name: str, module: nn.Module) -> str:
    """Return a module as messages name it.

    >>> describe_module("0", nn.ReLU())
    "module '0' (ReLU)"
    """
    return f"module '{name or 'model'}' ({type(module).__name__})"
