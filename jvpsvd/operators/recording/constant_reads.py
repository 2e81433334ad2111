"""Let a function that is being recorded read numbers that do not depend on its argument.

A language model asks whether its attention mask is all ones, a network reads its own scale. make_fx
refuses to read any number. What does not depend on the argument is the same at every point, so that
the branch that is taken belongs to the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import (
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

P = ParamSpec("P")
R = TypeVar("R")


def reading_constants(fn: Callable[P, R]) -> Callable[P, R]:
    """Return fn as make_fx is to record it: numbers that no argument decides can be read.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> mask = torch.ones(2)
    >>> fn = lambda x: 2 * x if (mask > 0).all() else x
    >>> len(make_fx(reading_constants(fn))(torch.ones(2)).graph.find_nodes(
    ...     op="call_function", target=torch.ops.aten.mul.Tensor))
    1
    """

    def read_and_call(*args: P.args, **kwargs: P.kwargs) -> R:
        with _ConstantReads():  # type: ignore[no-untyped-call]
            return fn(*args, **kwargs)

    return read_and_call


class _ConstantReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what reads a number from the values at hand, where no placeholder decides them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.data_dependent_output in func.tags:
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            if not any(map(_depends, tensors)):
                with disable_proxy_modes_tracing():
                    return func(*args, **kwargs)
        return func(*args, **kwargs)


def _depends(tensor: Tensor) -> bool:
    """Return whether a tensor is computed from a placeholder of the graph."""
    mode = get_proxy_mode()
    slot: Any = None if mode is None else get_proxy_slot(tensor, mode.tracer, None)
    if slot is None:
        return False  # made outside of the graph
    pending: list[fx.Node] = [slot.proxy.node]
    seen: set[fx.Node] = set()
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return True
        if node not in seen:
            seen.add(node)
            pending += node.all_input_nodes
    return False
