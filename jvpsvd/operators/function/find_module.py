"""Find the module of a network that makes its value unusable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

from jvpsvd.operators.function.modules import Hook, called_module, describe_module, forward_hooks
from jvpsvd.operators.function.pytrees import floating_tensors

_Signature = tuple[float, ...]


def find_nonfinite_module(fn: object, run: Callable[[], object]) -> str | None:
    """Return the first module that made NaN or infinity out of finite arguments, in words.

    Args:
        fn: The function whose modules are examined.
        run: Evaluates it.

    >>> net = nn.Sequential(nn.Identity(), nn.LayerNorm(2, eps=0.0))
    >>> find_nonfinite_module(net, lambda: net(torch.zeros(2)))
    "module '1' (LayerNorm)"
    """
    found: list[str] = []

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not found and _finite(args) and not _finite(output):
            found.append(describe_module(name, module))

    _run_with_hooks(fn, run, hook)
    return found[0] if found else None


def find_nonfinite_derivative(fn: object, run: Callable[[Tensor], object], x: Tensor) -> str | None:
    """Return what made NaN or infinity first in forward mode at x, in words: a module, if it can.

    Args:
        fn: The function whose modules are examined.
        run: Evaluates it at a point.
        x: The point.

    >>> net = nn.Sequential(nn.ReLU(), nn.LPPool1d(2, 2))
    >>> find_nonfinite_derivative(net, net, torch.zeros(1, 4))
    "module '1' (LPPool1d)"
    >>> find_nonfinite_derivative(torch.sqrt, torch.sqrt, torch.zeros(1))
    "torch's sqrt"
    """
    found: list[str] = []
    mode = _TangentMode()

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not found and _finite_tangents(args) and not _finite_tangents(output):
            found.append(describe_module(name, module))

    network = called_module(fn)
    hooks = nullcontext() if network is None else forward_hooks(network, hook)
    with forward_ad.dual_level(), torch.no_grad(), hooks, mode:
        run(forward_ad.make_dual(x, torch.ones_like(x)))  # type: ignore[no-untyped-call]
    return next(iter(found + mode.found), None)


class _TangentMode(TorchFunctionMode):
    """Names the first function of torch whose product is not finite where its arguments' are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        value = func(*args, **(kwargs or {}))
        if not self.found and _finite_tangents((args, kwargs)) and not _finite_tangents(value):
            self.found.append(f"torch's {getattr(func, '__name__', func)}")
        return value


def find_nondeterministic_module(
    fn: object, run: Callable[[], object], again: Callable[[], object] | None = None
) -> str | None:
    """Return the first module that gives two values for the same arguments, in words.

    Args:
        fn: The function whose modules are examined.
        run: Evaluates it.
        again: The same for the second value; None: `run`.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    >>> find_nondeterministic_module(net, lambda: net(torch.ones(64, 2)))
    "module '1' (Dropout)"
    """
    network = called_module(fn)
    if network is None:
        return None
    first, second = _record_calls(fn, run), _record_calls(fn, again or run)
    # By module and how often it was called before: which are called may differ.
    repeated = {call.key: call for call in second}
    for call in first:
        other = repeated.get(call.key)
        if other is not None and call.args == other.args and call.output != other.output:
            return call.key[0]
    return None


def buffer_states(fn: object) -> dict[str, tuple[int, int]]:
    """Return what changes with every buffer of the network that a function calls, by module.

    >>> norm = nn.BatchNorm1d(2)
    >>> before = buffer_states(norm)
    >>> _ = norm(torch.ones(3, 2))
    >>> [name for name, state in buffer_states(norm).items() if state != before[name]]
    ["module 'model' (BatchNorm1d)"]
    """
    network = called_module(fn)
    found: dict[str, tuple[int, int]] = {}
    for path, module in network.named_modules() if network is not None else ():
        own = [b for b in module.buffers(recurse=False) if not b.is_inference()]
        found[describe_module(path, module)] = (
            hash(tuple(id(buffer) for buffer in own)),
            sum(buffer._version for buffer in own),
        )
    return found


class _Call(NamedTuple):
    """A call of a module: by its name and how often it was called before."""

    key: tuple[str, int]
    args: _Signature
    output: _Signature


def _record_calls(fn: object, run: Callable[[], object]) -> list[_Call]:
    """Return the modules in the order in which they finish, with what they took and gave."""
    calls: list[_Call] = []
    counts = Counter[str]()

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> None:
        described = describe_module(name, module)
        calls.append(_Call((described, counts[described]), _signature(args), _signature(output)))
        counts[described] += 1

    _run_with_hooks(fn, run, hook)
    return calls


def _run_with_hooks(fn: object, run: Callable[[], object], hook: Hook) -> None:
    network = called_module(fn)
    if network is None:
        return
    with forward_hooks(network, hook), torch.no_grad():
        run()


def _finite(tree: Any) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in floating_tensors(tree))


def _finite_tangents(tree: Any) -> bool:
    """Return whether tangents hold neither NaN nor infinity."""
    leaves = floating_tensors(tree)
    tangents = [forward_ad.unpack_dual(leaf).tangent for leaf in leaves]  # type: ignore[no-untyped-call]
    return all(bool(torch.isfinite(each).all()) for each in tangents if each is not None)


def _signature(tree: Any) -> _Signature:
    """Return numbers that differ where the tensors do, but for a coincidence."""
    signature: list[float] = []
    for leaf in floating_tensors(tree):
        values = leaf.detach().double().nan_to_num().flatten()
        signature += [values.sum().item(), values.abs().sum().item()]
    return tuple(signature)
