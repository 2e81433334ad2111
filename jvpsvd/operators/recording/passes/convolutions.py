"""Turn reverse passes of convolutions into convolutions.

The reverse pass of a convolution of stride 1 is a plain convolution with the kernel turned round,
for which torch has faster kernels. Any other is a transposed convolution. That pays in float32 on
the CPU: it needs no point, which torch copies for every direction only to read its shape. All of it
is exact, and kernels are turned once for all points.
"""

from __future__ import annotations

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
_INPUT_ONLY = [True, False, False]


def simplify_convolutions(module: fx.GraphModule, linear: set[fx.Node], *, transpose: bool) -> None:
    """Replace reverse passes by convolutions, plain ones where they can be.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
        transpose: Whether those of other strides become transposed convolutions.
    """
    for node in linear_calls(module, linear, _aten.convolution_backward.default):
        _reverse_as_convolution(module.graph, node, linear, transpose)
    drop_unread(module, linear)


def _reverse_as_convolution(
    graph: fx.Graph, node: fx.Node, linear: set[fx.Node], transpose: bool
) -> None:
    """Replace conv'(u, W): of stride 1 by conv(u, W turned), else by the transposed conv of W.

    The reverse pass of a transposed convolution is conv(u, W).
    """
    u, _, weight, _, stride, padding, dilation, transposed, more, groups, mask = arguments(node)
    weight_shape, image = shape_of(weight), node.users and shape_of(next(iter(node.users)))
    read = shape_of(u)
    if mask != _INPUT_ONLY or weight in linear or weight_shape is None or not image or read is None:
        return
    if not isinstance(weight, fx.Node) or any(user.args[1] != 0 for user in node.users):
        return
    kernel = weight_shape[2:]
    if any(len(each) != len(kernel) for each in (stride, padding, dilation, more)):
        return  # one number for all dimensions, which only a direct call leaves so
    if transposed and any(added >= step for added, step in zip(more, stride, strict=True)):
        return  # the plain convolution would reach one entry further
    spread = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    turned = [full - p for full, p in zip(spread, padding, strict=True)]
    plain = not transposed and min(turned) >= 0 and all(step == 1 for step in stride)
    as_transposed = not transposed and not plain
    if as_transposed and not transpose:
        return
    over = [0] * len(kernel)
    if as_transposed:
        reached = zip(image[2:], read[2:], stride, padding, spread, strict=True)
        over = [n - ((r - 1) * step - 2 * p + full + 1) for n, r, step, p, full in reached]
    with graph.inserting_before(node):
        if plain:
            weight, padding = _turn(graph, weight, weight_shape, groups), turned
        called = (u, weight, None, stride, padding, dilation, as_transposed, over, groups)
        convolution = graph.call_function(_aten.convolution.default, called)
    convolution.meta["val"] = placeholder_for(image)
    linear.add(convolution)
    for user in list(node.users):
        replace(user, convolution, linear)
    erase(node, linear)


def _turn(graph: fx.Graph, weight: fx.Node, shape: torch.Size, groups: int) -> fx.Node:
    """Return W, (out, in / groups, …), with the two exchanged in each group and the kernel turned.

    Shape (in, out / groups, …), contiguous.
    """
    out, each, *kernel = shape
    swapped = [groups * each, out // groups, *kernel]
    parts = graph.call_function(
        _aten.view.default, (weight, [groups, out // groups, each, *kernel])
    )
    parts = graph.call_function(_aten.transpose.int, (parts, 1, 2))
    turned = graph.call_function(_aten.flip.default, (parts, list(range(3, 3 + len(kernel)))))
    turned = graph.call_function(
        _aten.clone.default, (turned,), {"memory_format": torch.contiguous_format}
    )
    turned = graph.call_function(_aten.view.default, (turned, swapped))
    turned.meta["val"] = placeholder_for(swapped)
    return turned
