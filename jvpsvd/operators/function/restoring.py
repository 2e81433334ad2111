"""Restore networks to what they were before an evaluation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from jvpsvd.arguments import shown
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.modules import called_modules

_CONTAINERS = frozenset((dict, OrderedDict, list, set))


@contextmanager
def restored_attributes(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Restore the attributes, parameters, buffers and hooks of every module.

    A module may keep what it computed. During differentiation nothing outside can use such a
    tensor. Dictionaries, lists and sets that are attributes get their entries back. Where a call
    changes weights in place, as RWKV does once, flags and numbers stay: they say that it is done.

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
    modules = modules_with_state(networks)
    before = [(module, dict(vars(module)), _entries(module)) for module in modules]
    versions = _versions(modules)
    try:
        yield
    finally:
        changed = _versions(modules) != versions
        for module, attributes, entries in before:
            kept = _flags(module) if changed else {}
            _restore(module, attributes, entries)
            vars(module).update(kept)


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
    with torch.random.fork_rng(devices), restored_attributes(networks), _restored_buffers(networks):
        yield


@contextmanager
def _restored_buffers(networks: Sequence[nn.Module]) -> Iterator[None]:
    buffers = {
        id(b): b for module in modules_with_state(networks) for b in module.buffers(recurse=False)
    }
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


def modules_with_state(networks: Sequence[nn.Module]) -> list[nn.Module]:
    """Return all modules that hold their own state: scripted and sharded ones do not."""
    found = {id(module): module for network in networks for module in network.modules()}
    if dist.is_available() and dist.is_initialized():
        from torch.distributed.fsdp import FSDPModule

        if any(isinstance(module, FSDPModule) for module in found.values()):
            return []  # it gathers and frees parameters, and keeps account of that itself
    return [each for each in found.values() if not isinstance(each, torch.jit.ScriptModule)]


def _versions(modules: Sequence[nn.Module]) -> list[int]:
    """Return how often the parameters have been changed in place."""
    # Without `Module.parameters`, which takes longer, at each evaluation.
    own = (p for module in modules for p in module._parameters.values() if p is not None)
    return [p._version for p in own if not p.is_inference()]


def _flags(module: nn.Module) -> dict[str, Any]:
    return {n: value for n, value in vars(module).items() if isinstance(value, bool | int | float)}


def _entries(module: nn.Module) -> list[tuple[Any, Any]]:
    # Most are empty.
    return [(v, _copy(v) if v else ()) for v in vars(module).values() if type(v) in _CONTAINERS]


def _copy(container: Any) -> Any:
    return dict(container) if isinstance(container, dict) else list(container)


def _restore(module: nn.Module, attributes: dict[str, Any], entries: list[tuple[Any, Any]]) -> None:
    own = vars(module)
    if not _same(own, attributes):
        for name in [name for name in own if name not in attributes]:
            del own[name]
        for name, value in attributes.items():
            if name not in own or own[name] is not value:
                own[name] = value
    for container, before in entries:
        if (container or before) and not _same(container, before):
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(before)


def _same(now: Any, before: Any) -> bool:
    """Return whether a container holds the same objects in the same order."""
    if len(now) != len(before) or not all(map(is_, now, before)):
        return False
    return not isinstance(now, dict) or all(map(is_, now.values(), before.values()))
