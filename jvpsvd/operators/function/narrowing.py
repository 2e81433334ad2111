"""Find where a function computes in a lower precision than its point has."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from jvpsvd.errors import TraceError
from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.failures import NOT_THE_USERS
from jvpsvd.scaling import row_norms

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class Narrowing(NamedTuple):
    """The lowest precision on the way from a point to a value, lower than the point's."""

    dtype: torch.dtype
    place: str
    """Where it is first lower, in the user's code, as " (file, line 3, in forward)"; "" elsewhere.
    """


class Ways:
    """What depends on a point, and the lowest precision on the way to it.

    Tensors are known by their memory, so that what is written into a view counts for the whole.

    Args:
        x: The point.
        measure: Whether to keep the largest norm of what depends on x.
    """

    def __init__(self, x: Tensor, *, measure: bool = False) -> None:
        self.largest, self._measure = 0.0, measure
        self._eps = torch.finfo(x.dtype).eps
        # By the address of a storage, which a weak reference keeps from being given again.
        self._reached: dict[int, tuple[StorageWeakRef, Narrowing | None]] = {}
        self._set(x, None)

    def note(self, arguments: Any, output: Any) -> None:
        """Take note of an operation that has been computed."""
        taken = [self._get(each) for each in _tensors(arguments)]
        reached = [each for each in taken if each is not None]
        if not reached:
            return
        least = lowest([way for _, way in reached])
        before = self._eps if least is None else torch.finfo(least.dtype).eps
        for each in _tensors(output):
            if each.is_floating_point() or each.is_complex():
                if self._measure and each.numel() and each.is_floating_point():
                    self.largest = max(self.largest, float(row_norms(each.detach().flatten())))
                lower = torch.finfo(each.dtype).eps > before
                self._set(each, Narrowing(each.dtype, _place()) if lower else least)

    def to(self, value: Tensor) -> Narrowing | None:
        """Return the lowest precision on the way to a value; None if it is the point's."""
        found = self._get(value)
        return None if found is None else found[1]

    def _get(self, tensor: Tensor) -> tuple[StorageWeakRef, Narrowing | None] | None:
        try:
            return self._reached.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # sparse, or without memory
            return None

    def _set(self, tensor: Tensor, way: Narrowing | None) -> None:
        with suppress(NotImplementedError, RuntimeError):
            storage = tensor.untyped_storage()
            known = self._reached.get(storage._cdata)
            if known is None:
                reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                self._reached[storage._cdata] = (reference, way)
            elif way is not None:
                self._reached[storage._cdata] = (known[0], lowest([way, known[1]]))


def find_narrowings(run: Callable[[Tensor], Any], x: Tensor) -> list[Narrowing | None]:
    """Return the lowest precision on the way from x to each tensor of a value.

    The function is evaluated once; None stands for the precision of x, and the list is empty where
    it cannot be watched.

    >>> cast = lambda x: x.float().sin().double() * 2
    >>> find_narrowings(cast, torch.ones(2, dtype=torch.float64))[0].dtype
    torch.float32
    >>> find_narrowings(torch.sin, torch.ones(2))
    [None]
    >>> find_narrowings(lambda x: x * torch.ones(2).double(), torch.ones(2).double())
    [None]
    """
    point = x.detach().clone()
    ways = Ways(point)
    with suppress(Exception), torch.no_grad():
        with _WatchingMode(ways):
            value = run(point)
        return [ways.to(each) for each in tree_leaves(value) if isinstance(each, Tensor)]
    return []


def largest_on_the_way(run: Callable[[Tensor], Any], x: Tensor) -> float:
    """Return the largest norm of what depends on x and is computed on the way to a value.

    Where such parts cancel in the value, it has errors of their rounding.

    >>> largest_on_the_way(lambda x: (x - 5) + (5 - x), torch.ones(1))
    4.0
    """
    point = x.detach().clone()
    ways = Ways(point, measure=True)
    with suppress(Exception), torch.no_grad(), _WatchingMode(ways):
        run(point)
    return ways.largest


def find_narrowing(run: Callable[[Tensor], Any], x: Tensor) -> Narrowing | None:
    """Return the lowest precision on the way from x to a value; None if it is that of x.

    >>> find_narrowing(torch.sin, torch.ones(2)) is None
    True
    """
    return lowest(find_narrowings(run, x))


def tell_narrowing(found: Narrowing | None, dtype: torch.dtype) -> None:
    """Say in the log, once for each place, that derivatives have the digits of a lower precision.

    >>> tell_narrowing(None, torch.float64)
    """
    if found is not None:
        _tell(found.dtype, dtype, found.place)


@cache
def _tell(lower: torch.dtype, dtype: torch.dtype, place: str) -> None:
    ours, points = (str(each).removeprefix("torch.") for each in (lower, dtype))
    logger.warning(
        "fn computes in %s on the way from a %s point%s, so that derivatives are right to the "
        "rounding of %s only; for more digits, let it compute in x.dtype there",
        ours, points, place, ours,
    )  # fmt: skip


def eps_of(found: Narrowing | None, dtype: torch.dtype) -> float:
    """Return the spacing of numbers at 1 in which a function computes.

    >>> eps_of(Narrowing(torch.float32, ""), torch.float64) == torch.finfo(torch.float32).eps
    True
    """
    return float(torch.finfo(dtype if found is None else found.dtype).eps)


def coarser_eps(found: Narrowing | None, dtype: torch.dtype) -> float:
    """Return `eps_of` for tests of correctness: never above that of float32, or the dtype's own.

    Products in half precision agree too badly to tell a wrong derivative from a right one.

    >>> coarser_eps(Narrowing(torch.bfloat16, ""), torch.float64) < 2e-7
    True
    """
    own, single = eps_of(None, dtype), eps_of(None, torch.float32)
    return max(own, min(eps_of(found, dtype), single))


def rounding_of(run: Callable[[Tensor], Any], x: Tensor) -> float:
    """Return `coarser_eps` of a function at x, which is evaluated only where x is float64.

    >>> rounding_of(lambda x: x.float(), torch.ones(2).double()) > 1e-8
    True
    """
    found = find_narrowing(run, x) if x.dtype == torch.float64 else None
    return coarser_eps(found, x.dtype)


class Rounding:
    """The eps by which tests judge a function; a lower precision is looked for when one fails.

    Args:
        run: The function.
        dtype: The dtype of its points.

    >>> rounding = Rounding(torch.sin, torch.float64)
    >>> rounding.judge(lambda eps: eps < 1e-15, torch.ones(2).double())
    True
    """

    def __init__(self, run: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
        self._run, self._own = run, eps_of(None, dtype)
        self._found: float | None = None

    def judge(self, test: Callable[[float], Found], x: Tensor) -> Found:
        """Return what a test returns, which is given eps and may be made again with a larger one.

        Raises:
            TraceError: If the test does.
        """
        try:
            return test(self._found or self._own)
        except TraceError:
            if self._found is not None:
                raise
            self._found = rounding_of(self._run, x)
            if self._found == self._own:
                raise
        return test(self._found)


class _WatchingMode(DispatchMode):
    def __init__(self, ways: Ways) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ways = ways

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self._ways.note((args, kwargs), output)
        return output


def _tensors(values: Any) -> Iterator[Tensor]:
    """Yield the tensors of an operation's arguments, or of what it returns."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)
    elif isinstance(values, dict):
        yield from _tensors([*values.values()])


def lowest(ways: list[Narrowing | None]) -> Narrowing | None:
    """Return the lowest of some precisions; None if all are that of the point.

    >>> lowest([None, Narrowing(torch.float32, ""), Narrowing(torch.bfloat16, "")]).dtype
    torch.bfloat16
    """
    narrow = [way for way in ways if way is not None]
    return max(narrow, key=lambda way: torch.finfo(way.dtype).eps, default=None)


def _place() -> str:
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith(NOT_THE_USERS):
            return f" ({frame.filename}, line {frame.lineno}, in {frame.name})"
    return ""
