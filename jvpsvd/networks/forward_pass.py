"""A forward pass, seen at every tensor that a module returns or a function computes.

Hooks see what modules return. A `TorchFunctionMode` sees the functions of torch while the model
runs, so that control flow, token ids and compiled parts are as good as any: nothing is traced.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import maybe_current_level
from torch.jit import RecursiveScriptModule  # type: ignore[attr-defined]
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from jvpsvd.errors import ModelError
from jvpsvd.networks.place_names import OUTPUT, Place, name_of_function
from jvpsvd.networks.tensors_within import Path, replace_parts
from jvpsvd.operators import eager_execution, restored_attributes
from jvpsvd.operators.environment.grouped_products import differentiable_grouped_products
from jvpsvd.operators.function.custom_functions import running_custom_function
from jvpsvd.operators.function.modules import forward_hooks

See = Callable[[Place, nn.Module | None, tuple[Any, ...], Tensor], Tensor | None]
"""Called with each floating tensor: its place, the module that returned it (None: a function did),
the arguments of that call, and the tensor. Returns a replacement, or None.
"""


_CALL_OF_MODULE = nn.Module._call_impl.__code__


class ReachedAll(Exception):  # noqa: N818 -- a jump, not an error
    """Ends a forward pass once every wanted place has been computed."""


class FunctionCalls(TorchFunctionMode):
    """Sees what the functions of torch compute in the forward of modules that torch does not have.

    Not seen is what cannot be cut out: what is computed under `torch.vmap` and for derivatives
    within the model, and within custom autograd functions.
    """

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see
        self._numbers: Counter[tuple[str, str]] = Counter()
        self._level = maybe_current_level()
        self.running: list[tuple[str, nn.Module]] = []
        """The modules that are being called, with their names, innermost last."""
        self.paused = False

    def enter(self, name: str, module: nn.Module) -> None:
        """Note that a module begins."""
        self.running.append((name, module))

    def leave(self, name: str) -> None:
        """Note that a module has returned; what it called and caught an error of ends, too."""
        while self.running.pop()[0] != name:
            pass

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function, and let its result be seen."""
        value = func(*args, **(kwargs or {}))
        if (
            not isinstance(value, Tensor | tuple | list)
            or self.paused
            or not self.running
            or type(self.running[-1][1]).__module__.startswith("torch.")
            or maybe_current_level() != self._level
            or running_custom_function(_CALL_OF_MODULE) is not None
            or not any(isinstance(leaf, Tensor) for leaf in tree_leaves((args, kwargs)))
        ):
            return value
        module, function = self.running[-1][0], name_of_function(func)
        self._numbers[module, function] += 1
        number = self._numbers[module, function]

        def see(path: Path, part: Tensor) -> Tensor | None:
            return self._see(Place(module, function, number, path), None, args, part)

        return replace_parts(value, see)


@contextmanager
def watched(model: nn.Module, see: See, *, functions: bool) -> Iterator[FunctionCalls | None]:
    """Let `see` see what modules return, and what functions compute if asked."""
    numbers: Counter[str] = Counter()
    mode = FunctionCalls(see) if functions else None

    def after(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        numbers[name or OUTPUT] += 1
        number = numbers[name or OUTPUT]

        def see_part(path: Path, part: Tensor) -> Tensor | None:
            return see(Place(name, "", number, path), module, args, part)

        if mode is None:
            return replace_parts(output, see_part)
        mode.leave(name)
        mode.paused = True  # what `see` computes is not the model's
        try:
            return replace_parts(output, see_part)
        finally:
            mode.paused = False

    with ExitStack() as stack:
        stack.enter_context(forward_hooks(model, after))
        if mode is not None:
            for name, module in model.named_modules():
                if not isinstance(module, RecursiveScriptModule):
                    stack.callback(
                        module.register_forward_pre_hook(_before(mode, name), prepend=True).remove
                    )
            stack.enter_context(mode)
        yield mode


def _before(mode: FunctionCalls, name: str) -> Callable[[nn.Module, Any], None]:
    return lambda module, args: mode.enter(name, module)


def run_to(
    model: nn.Module,
    x: Any,
    targets: Sequence[Place],
    substitute: tuple[Place, Tensor] | None = None,
) -> list[Tensor]:
    """Run the model until all targets are computed, and return their values in the given order.

    Args:
        model: The network.
        x: Its input.
        targets: The places to reach.
        substitute: A place, and the tensor that is taken for the one computed there.

    Raises:
        ModelError: If the forward pass does not reach a target.
    """
    values: dict[Place, Tensor] = {}
    wanted = set(targets)
    source = None if substitute is None else substitute[0]

    def see(place: Place, module: nn.Module | None, args: Any, value: Tensor) -> Tensor:
        if substitute is not None and place == source:
            value = substitute[1].clone()  # a later module may work in place on it
        if place in wanted:
            # A later module may work in place on this very tensor.
            values[place] = value.clone() if len(wanted) > 1 else value
            if len(values) == len(wanted):
                raise ReachedAll
        return value

    with watched(model, see, functions=uses_functions(source, *targets)), suppress(ReachedAll):
        forward(model, x)
    for place in targets:
        if place not in values:
            raise ModelError(
                f"the forward pass never reached call {place.number} of '{place.base}': the model "
                "took another path for this input"
            )
    return [values[place] for place in targets]


def uses_functions(*places: Place | None) -> bool:
    """Return whether functions have to be seen to reach these places."""
    return any(place is not None and place.function for place in places)


def forward(model: nn.Module, x: Any) -> Any:
    """Run the model on a copy of x, because it may begin with an in-place operation."""
    return call(model, each_tensor(x, lambda value: value.clone()))


def call(model: nn.Module, x: Any) -> Any:
    """Run the model eagerly, and drop what it keeps of that."""
    with eager_execution(), differentiable_grouped_products(), restored_attributes([model]):
        if isinstance(x, Mapping):
            return model(**x)
        return model(*x) if isinstance(x, tuple) else model(x)


def each_tensor(x: Any, apply: Callable[[Tensor], Tensor]) -> Any:
    """Return x with `apply` applied to the tensors among its arguments."""

    def one(value: Any) -> Any:
        return apply(value) if isinstance(value, Tensor) else value

    if isinstance(x, Mapping):
        return {name: one(value) for name, value in x.items()}
    return tuple(map(one, x)) if isinstance(x, tuple) else one(x)


def to_device(x: Any, device: torch.device) -> Any:
    """Return x with its tensors on a device.

    >>> to_device({"ids": torch.ones(1), "use_cache": False}, torch.device("cpu"))
    {'ids': tensor([1.]), 'use_cache': False}
    """
    return each_tensor(x, lambda value: value.to(device))
