"""How much work an evaluation of a function is, by counting what it calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.lower_precision import LowerPrecision, PathPrecisions
from jvpsvd.operators.function.random_draws import RandomDraws


class Work(NamedTuple):
    """The work of one evaluation; the same wherever and whenever it is counted."""

    calls: int
    """Operations of torch."""
    functions: int
    """Calls of torch from Python that lead to operations: a layer may do thousands by itself."""
    flops: int
    """Floating-point operations, one for an entry where torch counts none.

    Without products of matrices, of which a recording saves nothing."""
    rows: int
    """Entries of the value."""
    widest: int
    """Entries of the largest tensor that is made."""


class Counted(NamedTuple):
    """The value of a function, and what an evaluation of it was."""

    value: Any
    work: Work | None
    """None where the value is no tensor."""
    lower_precisions: list[LowerPrecision | None]
    """The lowest precision on the way to each tensor of the value; None if it is the point's."""


def count_work(fn: Callable[[Tensor], Any], x: Tensor, draws: RandomDraws | None = None) -> Counted:
    """Return fn at x, the work of that, and its lowest precisions; `draws` takes note of its own.

    >>> count_work(lambda x: (x @ x[:, :2]).relu(), torch.ones(10, 10))[1]
    Work(calls=3, functions=3, flops=20, rows=20, widest=20)
    """
    paths = PathPrecisions(x, count_work.__code__)
    mode = _CountingMode(paths, draws or RandomDraws())
    functions = _FunctionMode(mode)
    with torch.no_grad(), functions, mode:
        value = fn(x)
    found = [paths.to(each) for each in tree_leaves(value) if isinstance(each, Tensor)]
    if not isinstance(value, Tensor):
        return Counted(value, None, found)
    rows = value.numel()
    called = functions.calls
    work = Work(max(mode.calls, 1), called, mode.flops, rows, max(mode.widest, rows))
    return Counted(value, work, found)


_SAME_IN_A_RECORDING = frozenset(
    (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)
)


class _CountingMode(DispatchMode):
    def __init__(self, paths: PathPrecisions, draws: RandomDraws) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths, self._draws = paths, draws
        self.calls = self.flops = self.widest = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = self._draws.compute(func, args, kwargs)
        self._paths.note(func, (args, kwargs), output)
        self.calls += 1
        made = () if func.is_view else tree_leaves(output)
        sizes = [t.numel() for t in made if isinstance(t, Tensor)]
        self.widest = max(self.widest, *sizes, 0)
        count = flop_registry.get(func._overloadpacket)
        if count is None:
            self.flops += sum(sizes)
        elif func._overloadpacket not in _SAME_IN_A_RECORDING:
            self.flops += int(count(*args, **kwargs, out_val=output))
        return output


class _FunctionMode(TorchFunctionMode):
    """Counts the calls of torch during which operations are counted."""

    def __init__(self, operations: _CountingMode) -> None:
        super().__init__()
        self._operations, self.calls = operations, 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self._operations.calls
        output = func(*args, **(kwargs or {}))
        self.calls += self._operations.calls > before
        return output
