"""Evaluate what torch.jit made so that forward mode sees all of it.

After a few calls torch.jit replaces parts of a scripted or traced function by a backward of its
own, wherever arguments or weights then required grad. These parts drop the tangents of forward
mode: J v comes out as 0, or lacks a term, without an error. They are left out of an evaluation
whose weights do not require grad.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.operators.function.modules import held_by, reached_from

_MADE_BY_JIT = (torch.jit.ScriptModule, torch.jit.ScriptFunction)
_LOCK = threading.Lock()
# Weights that evaluations have taken the mark from, and by how many it is still needed.
_TAKEN: dict[int, tuple[Tensor, int]] = {}


def networks_of_scripted(fn: object) -> tuple[nn.Module, ...]:
    """Return the networks that fn calls if a part of it, or of them, was made by torch.jit.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> made = torch.jit.trace(net, torch.ones(2))
    >>> len(networks_of_scripted(net)), len(networks_of_scripted(made))
    (0, 1)
    """
    reached = list(reached_from(fn))
    networks = tuple(each for each in reached if isinstance(each, nn.Module))
    modules = [module for network in networks for module in network.modules()]
    classes: set[Any] = {type(module) for module in modules}
    held = [value for module in modules for value in vars(module).values()]
    held += [each for value in held if isinstance(value, list | tuple) for each in value]
    made = any(isinstance(each, _MADE_BY_JIT) for each in (*reached, *modules, *held))
    return networks if made or any(map(_calls_scripted, classes)) else ()


@lru_cache(1024)  # some classes are made as often as modules
def _calls_scripted(cls: type[Any]) -> bool:
    """Return whether a method of a class names a function that torch.jit made."""
    methods = (value for base in cls.__mro__ for value in vars(base).values())
    return any(isinstance(held, _MADE_BY_JIT) for method in methods for held in held_by(method))


@contextmanager
def weights_without_grad(networks: tuple[nn.Module, ...]) -> Iterator[None]:
    """Let no parameter of these networks require grad for the time of an evaluation.

    >>> net = nn.Linear(2, 2)
    >>> with weights_without_grad((net,)):
    ...     net.weight.requires_grad
    False
    >>> net.weight.requires_grad
    True
    """
    weights = {id(each): each for network in networks for each in network.parameters()}
    with _LOCK:  # two threads may evaluate one network
        marked = [each for each in weights.values() if each.requires_grad or id(each) in _TAKEN]
        taken = [each for each in marked if each.is_leaf and not each.is_inference()]
        for weight in taken:
            _TAKEN[id(weight)] = weight, _TAKEN.get(id(weight), (weight, 0))[1] + 1
            weight.requires_grad = False
    try:
        yield
    finally:
        with _LOCK:
            for weight in taken:
                _, users = _TAKEN.pop(id(weight))
                if users > 1:
                    _TAKEN[id(weight)] = weight, users - 1
                else:
                    weight.requires_grad = True
