"""Networks left as they were, whatever their evaluation does to them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import isfunction
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arguments import shown

_CONTAINERS = (dict, OrderedDict, list, set)


def called_modules(fn: object) -> tuple[nn.Module, ...]:
    """Return the networks that a function calls, where that can be seen.

    They are the function itself, what its method is bound to, what it closes over, names among its
    globals or wraps, and the same of the functions found there.

    >>> net, head = nn.Linear(2, 2), nn.Linear(2, 1)
    >>> features = lambda x: net(x)
    >>> sorted(module.out_features for module in called_modules(lambda x: head(features(x))))
    [1, 2]
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    pending = [fn]
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, nn.Module):
            found[id(each)] = each
            continue
        owner = getattr(each, "__self__", None)
        pending += [owner, getattr(each, "func", None), getattr(each, "__wrapped__", None)]
        pending += [value for value in held_by(each) if callable(value)]
        if not isfunction(each) and not isinstance(each, type):
            attributes = getattr(each, "__dict__", {})
            pending += [value for value in attributes.values() if isinstance(value, nn.Module)]
    return tuple(found.values())


def held_by(fn: object) -> list[object]:
    """Return what a function closes over, and what it names among its globals."""
    held = []
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    names = getattr(getattr(fn, "__code__", None), "co_names", ())
    return held + ([fn.__globals__.get(name) for name in names] if isfunction(fn) else [])


@contextmanager
def restored_attributes(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Give every module the attributes, parameters, buffers and hooks back that it had.

    A module may keep what it computed, and during differentiation that is no tensor that anything
    outside can use. Dictionaries, lists and sets that are attributes get their entries back.

    >>> net = nn.Linear(2, 2)
    >>> with restored_attributes([net]):
    ...     net.last = net.weight = None
    >>> hasattr(net, "last"), net.weight.shape
    (False, torch.Size([2, 2]))
    """
    if not isinstance(networks, list | tuple) or not all(
        isinstance(n, nn.Module) for n in networks
    ):
        raise ArgumentError(f"networks is {shown(networks)}; give a list of modules")
    modules = _modules(networks)
    before = [(module, dict(vars(module)), _entries(module)) for module in modules]
    try:
        yield
    finally:
        for module, attributes, entries in before:
            _restore(module, attributes, entries)


@contextmanager
def restored(fn: object, device: torch.device | None = None) -> Iterator[None]:
    """Restore the networks that fn calls, the values of their buffers, and torch's random state.

    >>> norm = nn.BatchNorm1d(2)
    >>> with restored(norm):
    ...     _ = norm(torch.ones(3, 2)), torch.rand(1)
    >>> norm.running_mean, norm.num_batches_tracked
    (tensor([0., 0.]), tensor(0))
    """
    networks = called_modules(fn)
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices), restored_attributes(networks), _values(networks):
        yield


@contextmanager
def _values(networks: Sequence[nn.Module]) -> Iterator[None]:
    buffers = {id(b): b for module in _modules(networks) for b in module.buffers(recurse=False)}
    plain = [b for b in buffers.values() if b.layout == torch.strided and not b.is_quantized]
    with torch.no_grad():
        copies = [(buffer, buffer.clone()) for buffer in plain if not buffer.is_meta]
    try:
        yield
    finally:
        for buffer, copy in copies:
            # By value: torch's kernels of batch statistics do not count their changes.
            if not _equal(buffer, copy):
                with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                    buffer.copy_(copy)


def _equal(ours: Tensor, theirs: Tensor) -> bool:
    return bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())


def _modules(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return all modules that hold their own state: scripted and sharded ones do not."""
    found = {id(module): module for network in networks for module in network.modules()}
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        if any(isinstance(module, FSDPModule) for module in found.values()):
            return []  # it gathers and frees parameters, and keeps account of that itself
    return [each for each in found.values() if not isinstance(each, torch.jit.ScriptModule)]


def _entries(module: nn.Module) -> list[tuple[Any, list[Any]]]:
    return [(v, _listed(v)) for v in vars(module).values() if type(v) in _CONTAINERS]


def _listed(container: Any) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _restore(
    module: nn.Module, attributes: dict[str, Any], entries: list[tuple[Any, list[Any]]]
) -> None:
    own = vars(module)
    for name in [name for name in own if name not in attributes]:
        del own[name]
    for name, value in attributes.items():
        if name not in own or own[name] is not value:
            own[name] = value
    for container, before in entries:
        if not _same(_listed(container), before):
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(before)


def _same(now: list[Any], before: list[Any]) -> bool:
    if len(now) != len(before):
        return False
    pairs = zip(now, before, strict=True)
    return all(
        a is b
        or (
            isinstance(a, tuple)
            and isinstance(b, tuple)
            and len(a) == len(b)
            and all(x is y for x, y in zip(a, b, strict=True))
        )
        for a, b in pairs
    )
