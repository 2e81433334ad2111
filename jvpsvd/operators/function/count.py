"""How much work an evaluation of a function is, by counting what it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Work(NamedTuple):
    """The work of one evaluation; the same wherever and whenever it is counted."""

    calls: int
    """Operations of torch."""
    flops: int
    """Floating-point operations; one for an entry where only products are counted by torch."""
    rows: int
    """Entries of the value."""


def count_work(fn: Callable[[Tensor], Tensor], x: Tensor) -> Work | None:
    """Return the work of evaluating fn at x, or None where it cannot be counted.

    >>> count_work(lambda x: (x @ x).relu(), torch.ones(10, 10))
    Work(calls=2, flops=2100, rows=100)
    """
    mode = _CountingMode()
    try:
        with torch.no_grad(), mode:
            value = fn(x)
    except Exception:  # a mode may be more than fn can bear
        return None
    return Work(max(mode.calls, 1), mode.flops, value.numel())


class _CountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls = self.flops = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        self.calls += 1
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **kwargs, out_val=output))
        else:
            self.flops += sum(t.numel() for t in tree_leaves(output) if isinstance(t, Tensor))
        return output
