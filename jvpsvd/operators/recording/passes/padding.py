"""Make zeros around images the padding of a convolution.

Zeros that are added before a convolution, or cut off after one, take a copy of the image, and a
mask after them takes another. Padding takes none. A convolution pads as much on the left as on the
right. Where more is needed on one side (TensorFlow pads so at stride 2), the kernel gets a row of
zeros:

    conv(pad(x, (l, r)), W) = conv(x, pad(W, (r − l, 0)), padding=r)    for r > l.

All of it is exact, and kernels are padded once for all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import (
    arguments,
    drop_unread,
    erase,
    linear_calls,
    placeholder_for,
    replace,
    shape_of,
)

_aten = torch.ops.aten
# With more channels a larger kernel takes more time than the copies that it saves.
_GROWN_CHANNELS = 4
_Sides = list[tuple[int, int]]


def pad_inside_convolutions(module: fx.GraphModule, linear: set[fx.Node], *, grow: bool) -> None:
    """Let convolutions pad and cut images themselves.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
        grow: Whether kernels may grow by rows of zeros.
    """
    for node in linear_calls(module, linear, _aten.constant_pad_nd.default):
        _pad_or_cut(node, linear, grow)
    drop_unread(module, linear)


def _pad_or_cut(node: fx.Node, linear: set[fx.Node], grow: bool) -> None:
    source, amounts, *value = arguments(node)
    shape = shape_of(source)
    if shape is None or (value and value[0] != 0) or not isinstance(source, fx.Node):
        return
    dims = len(shape) - 2
    # torch has (left, right) from the last dimension on.
    ends = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    if len(ends) > dims:
        return
    sides = [(0, 0)] * (dims - len(ends)) + ends
    if min(map(min, sides)) >= 0:
        _pad_the_next(node, source, sides, linear, grow)
    elif max(map(max, sides)) <= 0:
        _cut_the_previous(node, source, sides, linear, grow)


def _pad_the_next(
    node: fx.Node, source: fx.Node, added: _Sides, linear: set[fx.Node], grow: bool
) -> None:
    """Let the plain convolutions that read padded images pad them."""
    for user in list(node.users):
        plain = user.target is _aten.convolution.default and not user.args[6]
        if plain and user.args[0] is node and user.args[1] is not node:
            _, weight, bias, stride, padding, dilation, *rest = arguments(user)
            if len(padding) != len(added):
                continue
            padded = _pad(user, weight, _sum(padding, added), dilation, linear, grow)
            if padded is not None:
                user.args = (source, padded[0], bias, stride, padded[1], dilation, *rest)
    if not node.users:
        erase(node, linear)


def _cut_the_previous(
    node: fx.Node, source: fx.Node, cut: _Sides, linear: set[fx.Node], grow: bool
) -> None:
    """Let the one convolution that made an image make less of it.

    A transposed one leaves out what the plain one, of which it is the reverse pass, would pad.
    """
    if source.target is not _aten.convolution.default or len(source.users) > 1:
        return
    u, weight, bias, stride, padding, dilation, transposed, *rest = arguments(source)
    if len(padding) != len(cut) or (not transposed and any(step != 1 for step in stride)):
        return
    changed = [(-left, -right) for left, right in cut] if transposed else cut
    padded = _pad(source, weight, _sum(padding, changed), dilation, linear, grow)
    if padded is not None:
        source.args = (u, padded[0], bias, stride, padded[1], dilation, transposed, *rest)
        source.meta["val"] = node.meta["val"]
        replace(node, source, linear)


def _pad(
    node: fx.Node,
    weight: Any,
    sides: _Sides,
    dilation: Sequence[int],
    linear: set[fx.Node],
    grow: bool,
) -> tuple[Any, list[int]] | None:
    """Return the kernel and the padding with which a node pads so much on each side."""
    if min(map(min, sides)) < 0:
        return None
    padding = [max(each) for each in sides]
    if all(left == right for left, right in sides):
        return weight, padding
    shape = shape_of(weight)
    if not grow or not isinstance(weight, fx.Node) or weight in linear or shape is None:
        return None
    if len(dilation) != len(sides):
        return None  # one number for all dimensions
    rows = [
        (total - left, total - right) for total, (left, right) in zip(padding, sides, strict=True)
    ]
    more = [sum(each) for each in rows]
    fits = all(
        not extra or (extra < size and step == 1)
        for extra, size, step in zip(more, shape[2:], dilation, strict=True)
    )
    if shape[1] > _GROWN_CHANNELS or not fits:
        return None
    with node.graph.inserting_before(node):
        amounts = [amount for each in rows[::-1] for amount in each]
        grown = node.graph.call_function(_aten.constant_pad_nd.default, (weight, amounts))
    sizes = [size + extra for size, extra in zip(shape[2:], more, strict=True)]
    grown.meta["val"] = placeholder_for([*shape[:2], *sizes])
    return grown, padding


def _sum(padding: Sequence[int], sides: _Sides) -> _Sides:
    return [(p + left, p + right) for p, (left, right) in zip(padding, sides, strict=True)]
