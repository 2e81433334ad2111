"""Find where a function computes in a lower precision than its point has.

A norm or a softmax may cast to float32 inside, whatever its argument is, as those of Llama and T5
do. Products of its derivative in float64 then have the digits of float32. What is told by this is
how far two results of the same thing may differ by rounding, never that one is wrong.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from jvpsvd.errors import TraceError
from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.failures import NOT_THE_USERS
from jvpsvd.operators.function.tensors_by_memory import ByMemory

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

# Operations that take only a shape of what depends on x, or are flat.
_WITHOUT_DERIVATIVE = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
        *("randint_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided"),
        *("sign", "sgn", "round", "floor", "ceil", "trunc", "heaviside"),
    )
)


class LowerPrecision(NamedTuple):
    """The lowest precision on the path from a point to a value, lower than the point's."""

    dtype: torch.dtype
    place: str
    """Where it is first lower, in the user's code, as " (file, line 3, in forward)"; "" elsewhere.
    """


class PathPrecisions:
    """The tensors that depend on a point, and the lowest precision on the path to each.

    Tensors are known by their memory, so that what is written into a view counts for the whole.
    What has no derivative ends a path: an index, a comparison, a sign, a tensor that is detached.

    Args:
        x: The point, floating.
        until: The code of our function that evaluates the user's; what called that is not theirs.
    """

    def __init__(self, x: Tensor, until: CodeType) -> None:
        self._until = until
        self._eps = torch.finfo(x.dtype).eps
        self._reached = ByMemory[tuple[LowerPrecision | None]]()
        self._detached: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._set(x, None)

    def note(self, operation: Any, arguments: Any, output: Any) -> None:
        """Take note of an operation of torch that has been computed."""
        if operation._overloadpacket in _WITHOUT_DERIVATIVE:
            return
        if operation._overloadpacket is torch.ops.aten.detach:
            self._detached[output] = None
            return
        taken = [self._get(each) for each in tensors_of(arguments)]
        reached = [each for each in taken if each is not None]
        if not reached:
            return
        least = lowest([found for (found,) in reached])
        before = self._eps if least is None else torch.finfo(least.dtype).eps
        for each in tensors_of(output):
            if each.is_floating_point() or each.is_complex():
                lower = torch.finfo(each.dtype).eps > before
                dtype = each.dtype.to_real()
                self._set(each, LowerPrecision(dtype, _place(self._until)) if lower else least)

    def to(self, value: Tensor) -> LowerPrecision | None:
        """Return the lowest precision on the path to a value; None if it is the point's."""
        found = self._get(value)
        return None if found is None else found[0]

    def _get(self, tensor: Tensor) -> tuple[LowerPrecision | None] | None:
        return None if tensor in self._detached else self._reached.get(tensor)

    def _set(self, tensor: Tensor, found: LowerPrecision | None) -> None:
        known = self._reached.get(tensor)
        self._reached.set(tensor, (found if known is None else lowest([found, *known]),))


def find_lower_precisions(run: Callable[[Tensor], Any], x: Tensor) -> list[LowerPrecision | None]:
    """Return the lowest precision on the path from x to each tensor of a value.

    The function is evaluated once; None stands for the precision of x, and the list is empty where
    it cannot be watched.

    >>> cast = lambda x: x.float().sin().double() * 2
    >>> find_lower_precisions(cast, torch.ones(2, dtype=torch.float64))[0].dtype
    torch.float32
    >>> find_lower_precisions(torch.sin, torch.ones(2))
    [None]
    >>> find_lower_precisions(lambda x: x * torch.ones(2).double(), torch.ones(2).double())
    [None]
    """
    if not x.is_floating_point():
        return []
    point = x.detach().clone()
    paths = PathPrecisions(point, find_lower_precisions.__code__)
    with suppress(Exception), torch.no_grad():
        with _WatchingMode(paths):
            value = run(point)
        return [paths.to(each) for each in tree_leaves(value) if isinstance(each, Tensor)]
    return []


def find_lower_precision(run: Callable[[Tensor], Any], x: Tensor) -> LowerPrecision | None:
    """Return the lowest precision on the path from x to a value; None if it is that of x.

    >>> find_lower_precision(torch.sin, torch.ones(2)) is None
    True
    """
    return lowest(find_lower_precisions(run, x))


def tell_lower_precision(found: LowerPrecision | None, dtype: torch.dtype) -> None:
    """Say in the log, once for each place, that derivatives have the digits of a lower precision.

    >>> tell_lower_precision(None, torch.float64)
    """
    if found is not None:
        _tell(found.dtype, dtype, found.place)


@cache
def _tell(lower: torch.dtype, dtype: torch.dtype, place: str) -> None:
    ours, points = (str(each).removeprefix("torch.") for each in (lower, dtype))
    logger.warning(
        "fn computes in %s on the path from a %s point%s, so that derivatives are right to the "
        "rounding of %s only; for more digits, let it compute in x.dtype there",
        ours, points, place, ours,
    )  # fmt: skip


def eps_of_tests(found: LowerPrecision | None, dtype: torch.dtype) -> float | None:
    """Return the eps by which results are told apart from rounding; None for that of their dtype.

    Where float64 is lowered it is that of float32, also if the lower precision is half: results in
    half precision agree too badly to tell a wrong derivative from a right one.

    >>> eps_of_tests(LowerPrecision(torch.bfloat16, ""), torch.float64) < 2e-7
    True
    >>> print(eps_of_tests(None, torch.float64))
    None
    """
    lowered = found is not None and dtype == torch.float64
    return float(torch.finfo(torch.float32).eps) if lowered else None


def wider_eps(dtype: torch.dtype, eps: float | None) -> float:
    """Return the eps of a dtype, or a larger one.

    >>> wider_eps(torch.float32, None), wider_eps(torch.float64, 1e-7)
    (1.1920928955078125e-07, 1e-07)
    """
    return max(float(torch.finfo(dtype).eps), eps or 0.0)


class Rounding:
    """The eps by which tests judge a function; a lower precision is looked for when one fails.

    Args:
        run: The function.

    >>> cast, x = Rounding(lambda x: x.float().sin().double()), torch.ones(2).double()
    >>> cast.eps_at(x) < 1e-8
    False
    """

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        self._run = run
        self._looked = False
        self._eps: float | None = None

    def eps_at(self, x: Tensor) -> float | None:
        """Return `eps_of_tests` of the function; the first time it is evaluated, at a float64 x."""
        if not self._looked:
            own = x.dtype != torch.float64  # nothing to look for
            found = None if own else find_lower_precision(self._run, x)
            self._looked, self._eps = True, eps_of_tests(found, x.dtype)
        return self._eps

    def judge(self, test: Callable[[float | None], Found], x: Tensor) -> Found:
        """Return what a test returns, which is given eps and may be made again with a larger one.

        Raises:
            TraceError: If the test does.
        """
        before = self._eps
        try:
            return test(before)
        except TraceError:
            if self.eps_at(x) == before:
                raise
        return test(self._eps)


class _WatchingMode(DispatchMode):
    def __init__(self, paths: PathPrecisions) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths = paths

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self._paths.note(func, (args, kwargs), output)
        return output


def tensors_of(values: Any) -> Iterator[Tensor]:
    """Yield the tensors of an operation's arguments, or of what it returns.

    >>> list(tensors_of([torch.zeros(1), 2, {"a": torch.ones(1)}]))
    [tensor([0.]), tensor([1.])]
    """
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for each in values:
            yield from tensors_of(each)
    elif isinstance(values, dict):
        yield from tensors_of([*values.values()])


def lowest(found: list[LowerPrecision | None]) -> LowerPrecision | None:
    """Return the lowest of some precisions; None if all are that of the point.

    >>> lowest([None, LowerPrecision(torch.float32, ""), LowerPrecision(torch.half, "")]).dtype
    torch.float16
    """
    lower = [one for one in found if one is not None]
    return max(lower, key=lambda one: torch.finfo(one.dtype).eps, default=None)


def _place(until: CodeType) -> str:
    """Return the line of the user's code that is being evaluated; "" where there is none."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is until:
            return ""  # what follows has called us
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if not file.startswith(NOT_THE_USERS) or file.startswith("<ipython-input"):
            return f" ({file}, line {frame.f_lineno}, in {name})"
        frame = frame.f_back
    return ""
