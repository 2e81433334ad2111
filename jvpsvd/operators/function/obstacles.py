"""Find what hides a function, or a part of it, from automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from jvpsvd.operators.function.custom_functions import running_custom_function
from jvpsvd.operators.function.lower_precision import LowerPrecision
from jvpsvd.operators.function.pytrees import floating_tensors
from jvpsvd.operators.function.random_draws import RandomDraws, watch_draws_elsewhere
from jvpsvd.operators.function.work import Work, count_work

_CUTS: dict[str, str] = {
    "detach": "detach",
    "detach_": "detach",
    "numpy": "NumPy",
    "__array__": "NumPy",
    "tolist": "Python numbers",
    "item": "Python numbers",
    "__float__": "Python numbers",
}


def find_obstacles(run: Callable[[Tensor], object], x: Tensor) -> list[str]:
    """Return what hides a value from automatic differentiation, in words.

    The function is evaluated at x once, and each call of torch on what depends on x is examined.

    Args:
        run: The function; it is evaluated on a copy of x.
        x: The point.

    >>> find_obstacles(lambda x: x.detach() + torch.no_grad()(torch.sin)(x), torch.ones(2))
    ['detach', 'torch.no_grad']
    >>> find_obstacles(torch.sin, torch.ones(2))
    []

    What a custom function does in its forward, which runs without grad, is not examined.
    """
    mode = _ObstacleMode()
    point = x.detach().clone().requires_grad_()
    mode.dependent[id(point)] = point
    # A function that fails here was evaluated in another way before; what was found is returned.
    with suppress(Exception), torch.inference_mode(False), torch.enable_grad(), mode:
        run(point)
    return sorted(mode.found)


class Watched(NamedTuple):
    """The value of a function, and what was seen of it: None where it cannot be watched.

    A mode may be more than a function can bear.
    """

    value: Any
    reads_numbers: bool
    """Whether it makes Python numbers or NumPy arrays of any tensor."""
    runs_inference: bool | None
    """Whether a part of it runs in inference mode."""
    work: Work | None
    """The work of an evaluation."""
    lower_precisions: list[LowerPrecision | None]
    """The lowest precision of each tensor of it, if that is lower than the point's."""
    draws: RandomDraws
    """The random numbers that it draws."""


def evaluate_and_watch(run: Callable[[Tensor], Any], x: Tensor) -> Watched:
    """Return f(x), and what was seen of f meanwhile.

    Args:
        run: The function; it is evaluated at a copy of x.
        x: The point.

    >>> scale = torch.tensor(2.0)
    >>> evaluate_and_watch(lambda x: scale * x, torch.ones(2))[:3]
    (tensor([2., 2.]), False, False)
    >>> evaluate_and_watch(lambda x: scale.item() * x, torch.ones(2))[:3]
    (tensor([2., 2.]), True, False)
    """
    draws = RandomDraws()
    mode = _NumberMode(draws)
    work: Work | None = None
    lower_precisions: list[LowerPrecision | None] = []
    inference: bool | None = None
    with torch.no_grad():
        try:
            with mode, watch_draws_elsewhere(draws):
                value, work, lower_precisions = count_work(run, x.detach().clone(), draws)
            inference = mode.inference
        except Exception:  # it cannot be watched
            value, draws = run(x), RandomDraws()
    return Watched(value, mode.found, inference, work, lower_precisions, draws)


_NUMBERS = {
    *("numpy", "__array__", "__dlpack__", "data_ptr", "tolist", "item", "is_nonzero"),
    *("__float__", "__int__", "__bool__", "__index__", "__complex__", "__contains__"),
    *("equal", "allclose"),
}


_PROPERTIES: tuple[Any, ...] = (Tensor.requires_grad, Tensor.grad_fn, Tensor.is_leaf, Tensor.data)
_OF_AUTOGRAD = {
    *(each.__get__ for each in _PROPERTIES),
    *(Tensor.requires_grad_, Tensor.register_hook, Tensor.retain_grad, Tensor.detach_),
}


class _NumberMode(TorchFunctionMode):
    """Looks for calls that leave torch, or are made in inference mode."""

    def __init__(self, draws: RandomDraws) -> None:
        super().__init__()
        self.found = self.inference = False
        self._draws = draws
        self._outside = torch.is_inference_mode_enabled()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _NUMBERS:
            self.found = True
            self._draws.read(args)
        self.inference |= torch.is_inference_mode_enabled() and not self._outside
        return func(*args, **(kwargs or {}))


class AutogradMode(TorchFunctionMode):
    """Looks for calls that depend on what autograd keeps of a tensor, or change that.

    >>> mode = AutogradMode()
    >>> with mode:
    ...     _ = torch.ones(2).requires_grad
    >>> mode.found
    True
    """

    def __init__(self) -> None:
        super().__init__()
        self.found = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.found = self.found or func in _OF_AUTOGRAD
        return func(*args, **(kwargs or {}))


class WithoutCrashes(TorchFunctionMode):
    """Does in another way what may end the process within a recording.

    `tolist` reads memory that is not allocated: numbers are read one by one, and one that depends
    on the argument of a recording is refused as it is by `item`. The forward mode of `addcmul`,
    `addcdiv` and `addr` with a factor crashes where a tensor is constant: they are computed by
    products and sums.

    >>> with WithoutCrashes():
    ...     torch.func.functionalize(lambda x: x * sum(x[1:].tolist()))(torch.ones(3))
    tensor([2., 2., 2.])
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.tolist and torch._C._functorch.is_functorch_wrapped_tensor(args[0]):
            return _numbers(args[0])
        name = getattr(func, "__name__", "")
        by = _SUMS.get(name.removesuffix("_"))
        if by is not None and len(args) == 3 and kwargs and "out" not in kwargs:
            total = by(*args, **kwargs)
            return args[0].copy_(total) if name.endswith("_") else total
        return func(*args, **(kwargs or {}))


_SUMS: dict[str, Callable[..., Tensor]] = {
    "addcmul": lambda x, a, b, value=1: x + value * a * b,
    "addcdiv": lambda x, a, b, value=1: x + value * (a / b),
    "addr": lambda x, a, b, beta=1, alpha=1: beta * x + alpha * torch.outer(a, b),
}


def _numbers(tensor: Tensor) -> Any:
    return [_numbers(part) for part in tensor.unbind()] if tensor.ndim else tensor.item()


class _ObstacleMode(TorchFunctionMode):
    """Examines each call of torch whose arguments depend on the point."""

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
            floating = floating_tensors(output)
            self.dependent.update((id(leaf), leaf) for leaf in floating)
            custom = running_custom_function(find_obstacles.__code__)
            if custom is not None:
                self.found.add(f"the custom function {custom}")
            else:
                self._note(func, kwargs, floating)
        return output

    def _note(self, func: Any, kwargs: dict[str, Any], outputs: list[Tensor]) -> None:
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
