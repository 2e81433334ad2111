"""Which of some tensors the value of a function depends on.

Each operation of torch passes on what its results were computed from. What leaves torch, as a
Python number, a NumPy array or the size of a result, may decide anything: the value counts as
computed from that, too. So a tensor that is not named cannot change the value, whatever it holds,
unless a compiled extension reads it behind torch's back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from jvpsvd.operators.environment.dispatch import DispatchMode
from jvpsvd.operators.function.obstacles import LEAVING_TORCH

_SHOWING_VALUES = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}

_MASKS = {torch.bool, torch.uint8}


def depends_on(run: Callable[[], Any], given: Sequence[Tensor]) -> list[bool]:
    """Tell of each tensor whether what run() returns may depend on its entries.

    True of all where the evaluation cannot be followed.

    >>> ids, mask = torch.tensor([1, 0]), torch.tensor([1.0, 0.0])
    >>> weight = torch.ones(2)
    >>> depends_on(lambda: (weight[ids] * 0 + weight) * mask, [ids, mask])
    [True, True]
    >>> depends_on(lambda: (weight[ids], weight * mask)[1], [ids, mask])
    [False, True]
    >>> depends_on(lambda: weight if ids.sum() > 5 else 2 * weight, [ids, mask])
    [True, False]
    """
    if not given:
        return []
    origins = _Origins(given)
    try:
        with torch.no_grad(), _Following(origins), _Leaving(origins):
            value = run()
        return [index in origins.decisive | origins.of(value) for index in range(len(given))]
    except Exception:  # whatever an operation that cannot be followed raises
        return [True] * len(given)


class _Origins:
    """The given tensors, by index, that the entries of others were computed from."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        self._found: dict[int, set[int]] = {}
        self._kept: list[Tensor] = []  # the memory of a tensor that is gone may become another's
        self.decisive: set[int] = set()
        """What may have decided which operations were called."""
        for index, tensor in enumerate(given):
            self.add(tensor, {index})

    def of(self, *values: Any) -> set[int]:
        """Return the origins of all tensors in some values."""
        found: set[int] = set()
        for leaf in tree_leaves(values):
            if isinstance(leaf, Tensor):
                found |= self._found.get(_memory(leaf), set())
        return found

    def add(self, value: Any, origins: set[int]) -> None:
        """Note further origins of all tensors in a value."""
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                self._kept.append(leaf)
                self._found.setdefault(_memory(leaf), set()).update(origins)


class _Following(DispatchMode):
    """Follows every operation, those that call others included."""

    def __init__(self, origins: _Origins) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._origins = origins

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        found = self._origins.of(args, kwargs)
        if found:
            self._origins.add(output, found)
            if func._schema.is_mutable:  # which of them it writes is not asked
                self._origins.add((args, kwargs), found)
            if _shows_values(func, args, output):
                self._origins.decisive |= found
        return output


class _Leaving(TorchFunctionMode):
    """Notes what leaves torch."""

    def __init__(self, origins: _Origins) -> None:
        super().__init__()
        self._origins = origins

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in LEAVING_TORCH:
            self._origins.decisive |= self._origins.of(args, kwargs)
        return func(*args, **kwargs)


def _shows_values(func: Any, args: Any, output: Any) -> bool:
    """Tell whether Python may read from a result what the entries were."""
    if any(not isinstance(leaf, Tensor) for leaf in tree_leaves(output) if leaf is not None):
        return True
    if func is torch.ops.aten.index.Tensor:  # which is marked whatever it is given
        return any(leaf.dtype in _MASKS for leaf in tree_leaves(args[1]) if leaf is not None)
    return not _SHOWING_VALUES.isdisjoint(func.tags)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
