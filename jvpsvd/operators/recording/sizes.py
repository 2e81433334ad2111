"""Results whose size depends on values: of boolean masks, `nonzero`, `unique` and the like.

A recording may hold sizes as numbers: a mean divides by one, a loop runs over one. Where values
decide a size, a recording is right at the points where it has the size that it was recorded with.
So every operation that makes such a result compares its shape whenever it is replayed. (Where
recordings of several sizes turn out to be the same, one takes further sizes: see `by_size`.)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from jvpsvd.errors import TraceError

_aten = torch.ops.aten
_READS = {_aten.index.Tensor, _aten._unsafe_index.Tensor}
_WRITES = {
    *(_aten.index_put.default, _aten.index_put_.default),
    *(_aten._index_put_impl_.default, _aten._unsafe_index_put.default),
}
# Their results have such sizes too, and torch does not say so.
_SEQUENCES = {_aten._pack_padded_sequence.default, _aten._pad_packed_sequence.default}
_MASKS = (torch.bool, torch.uint8)

Shapes = tuple[tuple[int, ...] | None, ...]


class AnotherSizeError(TraceError):
    """At this point values decide on another size than where the function was recorded."""

    @property
    def what(self) -> str:
        """What differs, without what to do about it."""
        return str(self).partition(";")[0]


@cache
def is_sized_by_values(func: OpOverload) -> bool:
    """Return whether values may decide on the shape of what an operation returns.

    All that is known of operations that are not torch's own is whether they change a tensor.

    >>> is_sized_by_values(torch.ops.aten.nonzero.default)
    True
    >>> is_sized_by_values(torch.ops.aten.sum.default)
    False
    """
    if func in _READS or torch.Tag.nondeterministic_seeded in func.tags:
        return False
    if any(each.alias_info is not None for each in func._schema.arguments):
        return False
    tagged = torch.Tag.dynamic_output_shape in func.tags
    return tagged or func in _SEQUENCES or func.namespace not in ("aten", "prims", "prim")


def shapes_of(result: Any) -> Shapes:
    """Return the shape of each tensor that an operation returned, None for what is none.

    >>> shapes_of((torch.ones(2, 3), 5))
    ((2, 3), None)
    """
    parts = result if isinstance(result, tuple | list) else (result,)
    return tuple(tuple(part.shape) if isinstance(part, Tensor) else None for part in parts)


def call_of_same_shapes(
    func: OpOverload, recorded: tuple[Shapes, ...], *args: Any, **kwargs: Any
) -> Any:
    """Return what an operation returns, if that has shapes recorded.

    Args:
        func: The operation.
        recorded: Its shapes at each point where the function was recorded.
        args: Its arguments.
        kwargs: The same by name.

    Raises:
        AnotherSizeError: If it has others.

    >>> call_of_same_shapes(torch.ops.aten.nonzero.default, (((2, 1),),), torch.ones(3))
    Traceback (most recent call last):
    jvpsvd.operators.recording.sizes.AnotherSizeError: values of the input decide on a size ...
    """
    result = func(*args, **kwargs)
    for now, *then in zip(shapes_of(result), *recorded, strict=True):
        if now not in then and not _is_of_any_size(now, then):
            raise AnotherSizeError(
                f"values of the input decide on a size ({func.overloadpacket} gives {now}, and "
                f"gave {' and '.join(map(str, then))} where the function was recorded), which a "
                "recording holds; record it at this point anew"
            )
    return result


def _is_of_any_size(now: tuple[int, ...] | None, then: list[tuple[int, ...] | None]) -> bool:
    """Return whether a shape differs from those recorded only in sizes in which they differ."""
    if now is None or any(shape is None or len(shape) != len(now) for shape in then):
        return False
    sizes = zip(now, *(shape or () for shape in then), strict=True)
    return all(size in recorded or len(set(recorded)) > 1 for size, *recorded in sizes)


def without_masks(func: OpOverload, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """Return how to do an operation without boolean masks; None for one that takes none.

    Masks become the indices of what is true in them: these depend on the point alone, so that
    their sizes are compared where the values are computed, before any product. A number that is
    written becomes a choice, which has no such size.

    >>> args = (torch.arange(3), [torch.tensor([True, False, True])])
    >>> without_masks(torch.ops.aten.index.Tensor, args)()
    tensor([0, 2])
    """
    if func is _aten.masked_select.default:
        return lambda: _select(*args)
    if func not in _READS | _WRITES:
        return None
    indices = args[1]
    masks = [each for each in indices if _is_mask(each)]
    if not masks:
        return None
    if func in _WRITES and len(masks) == 1 and _is_choice(func, *args):
        return lambda: _choose(args[0], indices, args[2])
    return lambda: func(args[0], _as_indices(indices), *args[2:])


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in _MASKS and index.ndim > 0


def _as_indices(indices: list[Tensor | None]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for each in indices:
        found += _aten.nonzero(each).unbind(1) if each is not None and _is_mask(each) else [each]
    return found


def _select(values: Tensor, mask: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(values.shape, mask.shape)  # type: ignore[no-untyped-call]
    selected: Tensor = _aten.index(values.expand(shape), _as_indices([mask.expand(shape)]))
    return selected


def _is_choice(func: OpOverload, into: Any, indices: Any, value: Tensor, *rest: Any) -> bool:
    """Return whether one number is written to a new tensor, wherever one mask is true."""
    others = [each for each in indices if each is not None and not _is_mask(each)]
    accumulate = bool(rest and rest[0])
    return func is _aten.index_put.default and value.numel() == 1 and not others and not accumulate


def _choose(into: Tensor, indices: list[Tensor | None], value: Tensor) -> Tensor:
    first, mask = next((i, each) for i, each in enumerate(indices) if each is not None)
    after = into.ndim - first - mask.ndim
    mask = mask.to(torch.bool).reshape((*mask.shape, *(1 for _ in range(after))))
    # The choice lies in memory as the mask does, which is to lie as what is written to.
    mask = _aten.logical_and(_aten.ones_like(into, dtype=torch.bool), mask)
    chosen: Tensor = _aten.where(mask, value.reshape(()), into)
    return chosen
