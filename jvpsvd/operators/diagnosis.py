"""Which module of a network is to blame, when its value cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from jvpsvd.operators.restoring import held_by

_Signature = tuple[float, ...]
_See = Callable[[str, nn.Module, Any, Any], None]


def module_of(fn: object) -> nn.Module | None:
    """Return the network that a function calls, where that can be seen.

    It is the function itself, the one whose method it is, or the only one that it closes over or
    names among its globals.

    >>> net = nn.Linear(2, 1)
    >>> module_of(lambda x: net(x).relu()) is net, module_of(torch.sin) is None
    (True, True)
    """
    if isinstance(fn, nn.Module):
        return fn
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, nn.Module):
        return owner
    inner = getattr(fn, "func", None) or getattr(fn, "__wrapped__", None)
    if inner is not None:
        return module_of(inner)
    modules = {id(value): value for value in held_by(fn) if isinstance(value, nn.Module)}
    return next(iter(modules.values())) if len(modules) == 1 else None


def first_not_finite(fn: object, run: Callable[[], object]) -> str | None:
    """Return the first module that made NaN or infinity out of finite arguments, in words.

    Args:
        fn: The function whose modules are watched.
        run: Evaluates it.

    >>> net = nn.Sequential(nn.Identity(), nn.LayerNorm(2, eps=0.0))
    >>> first_not_finite(net, lambda: net(torch.zeros(2)))
    "module '1' (LayerNorm)"
    """
    found: list[str] = []

    def see(name: str, module: nn.Module, args: Any, output: Any) -> None:
        if not found and _finite(args) and not _finite(output):
            found.append(_in_words(name, module))

    _run_watched(fn, run, see)
    return found[0] if found else None


def first_unsteady(fn: object, run: Callable[[], object]) -> str | None:
    """Return the first module that gives two values for the same arguments, in words.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    >>> first_unsteady(net, lambda: net(torch.ones(64, 2)))
    "module '1' (Dropout)"
    """
    network = module_of(fn)
    if network is None:
        return None
    first, second = _calls(fn, run), _calls(fn, run)
    for (name, args, output), (_, args_again, output_again) in zip(first, second, strict=False):
        if args == args_again and output != output_again:
            return name
    return None


def states(fn: object) -> dict[str, tuple[int, int]]:
    """Return what changes with every buffer of the network that a function calls, by module.

    >>> norm = nn.BatchNorm1d(2)
    >>> before = states(norm)
    >>> _ = norm(torch.ones(3, 2))
    >>> [name for name, state in states(norm).items() if state != before[name]]
    ["module 'model' (BatchNorm1d)"]
    """
    network = module_of(fn)
    found: dict[str, tuple[int, int]] = {}
    for path, module in network.named_modules() if network is not None else ():
        own = [b for b in module.buffers(recurse=False) if not b.is_inference()]
        found[_in_words(path, module)] = (
            hash(tuple(id(buffer) for buffer in own)),
            sum(buffer._version for buffer in own),
        )
    return found


def obstacles(run: Callable[[Tensor], object], x: Tensor) -> list[str]:
    """Return what stands between a value and automatic differentiation, in words.

    The function is evaluated at x once, and each call of torch on what depends on x is looked at.

    Args:
        run: The function; it is evaluated on a copy of x.
        x: The point.

    >>> obstacles(lambda x: x.detach() + torch.no_grad()(torch.sin)(x), torch.ones(2))
    ['detach', 'torch.no_grad']
    >>> obstacles(torch.sin, torch.ones(2))
    []

    What a custom function does inside of its forward, which runs without grad, is its own affair.
    """
    watch = _Obstacles()
    point = x.detach().clone().requires_grad_()
    watch.dependent[id(point)] = point
    # A function that fails here has been evaluated otherwise before; what was seen is told.
    with suppress(Exception), torch.inference_mode(False), torch.enable_grad(), watch:
        run(point)
    return sorted(watch.found)


_CUTS: dict[str, str] = {
    "detach": "detach",
    "detach_": "detach",
    "numpy": "NumPy",
    "__array__": "NumPy",
    "tolist": "Python numbers",
    "item": "Python numbers",
    "__float__": "Python numbers",
}


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


class _Obstacles(TorchFunctionMode):
    """Looks at each call of torch whose arguments depend on the point."""

    def __init__(self) -> None:
        super().__init__()
        # The tensors themselves: an id may be given again once a tensor is gone.
        self.dependent: dict[int, Tensor] = {}
        self.found: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if any(id(leaf) in self.dependent for leaf in tree_leaves((args, kwargs))):
            floating = _floating(output)
            self.dependent.update((id(leaf), leaf) for leaf in floating)
            custom = _custom_function()
            if custom is not None:
                self.found.add(f"the custom function {custom}")
            else:
                self._look(func, kwargs, floating)
        return output

    def _look(self, func: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
        name = getattr(func, "__name__", "")
        if name in _CUTS:
            self.found.add(_CUTS[name])
        elif func == Tensor.data.__get__:  # type: ignore[attr-defined]
            self.found.add("detach")
        elif func is torch.autograd.grad:
            if not kwargs.get("create_graph"):
                self.found.add("torch.autograd.grad without create_graph=True")
        elif outputs:
            if torch.is_inference_mode_enabled():
                self.found.add("torch.inference_mode")
            elif not torch.is_grad_enabled():
                self.found.add("torch.no_grad")
            if torch.is_autocast_enabled(outputs[0].device.type):
                self.found.add("autocast")


def _custom_function() -> str | None:
    """Return the torch.autograd.Function in whose forward the caller is, or None."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is _APPLY:
            return str(frame.f_locals["cls"].__name__)
        if frame.f_code is obstacles.__code__:
            return None
        frame = frame.f_back
    return None


def _calls(fn: object, run: Callable[[], object]) -> list[tuple[str, _Signature, _Signature]]:
    """Return the modules in the order in which they finish, with what they took and gave."""
    calls: list[tuple[str, _Signature, _Signature]] = []

    def see(name: str, module: nn.Module, args: Any, output: Any) -> None:
        calls.append((_in_words(name, module), _signature(args), _signature(output)))

    _run_watched(fn, run, see)
    return calls


def _run_watched(fn: object, run: Callable[[], object], see: _See) -> None:
    network = module_of(fn)
    if network is None:
        return
    with _watched(network, see), torch.no_grad():
        run()


@contextmanager
def _watched(network: nn.Module, see: _See) -> Iterator[None]:
    def hook_of(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: see(name, module, args, output)

    with ExitStack() as hooks:
        for name, module in network.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # has no hooks
                hooks.callback(module.register_forward_hook(hook_of(name)).remove)
        yield


def _in_words(name: str, module: nn.Module) -> str:
    return f"module '{name or 'model'}' ({type(module).__name__})"


def _floating(tree: Any) -> list[Tensor]:
    leaves = tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _finite(tree: Any) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in _floating(tree))


def _signature(tree: Any) -> _Signature:
    """Return numbers that differ where the tensors do, but for a coincidence."""
    signature: list[float] = []
    for leaf in _floating(tree):
        values = leaf.detach().double().nan_to_num().flatten()
        signature += [values.sum().item(), values.abs().sum().item()]
    return tuple(signature)
