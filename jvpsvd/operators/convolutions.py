"""Passes over recorded derivatives that turn what surrounds a convolution into a plain one.

The reverse pass of a convolution of stride 1 is a convolution too, with the kernel turned round,
for which the kernels of torch are faster; and zeros added before a convolution, or cut off after
it, are its padding. All of it is exact, and turned kernels end in the primal graph.
"""

from __future__ import annotations

import torch
from torch import fx

from jvpsvd.operators.graphs import arguments, erase, placeholder_for, replace, shape_of

_aten = torch.ops.aten
_INPUT_ONLY = [True, False, False]


def simplify_convolutions(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Make reverse passes plain convolutions where they are, and padding part of a convolution.

    Args:
        module: A recorded derivative.
        linear: Its nodes that depend on a tangent or cotangent, each linear in it; updated.
    """
    for node in list(module.graph.nodes):
        if node in linear and node.target is _aten.convolution_backward.default:
            _reverse_as_convolution(module.graph, node, linear)
    for node in list(module.graph.nodes):
        if node in linear and node.target is _aten.constant_pad_nd.default:
            _pad_within(node, linear)
    module.graph.eliminate_dead_code()
    linear.intersection_update(module.graph.nodes)


def _reverse_as_convolution(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace conv'(u, W): of stride 1 by conv(u, W turned), of a transposed one by conv(u, W)."""
    u, _, weight, _, stride, padding, dilation, transposed, more, groups, mask = arguments(node)
    weight_shape, image = shape_of(weight), node.users and shape_of(next(iter(node.users)))
    if mask != _INPUT_ONLY or weight in linear or weight_shape is None or not image:
        return
    if not isinstance(weight, fx.Node) or any(user.args[1] != 0 for user in node.users):
        return
    kernel = weight_shape[2:]
    if any(len(each) != len(kernel) for each in (stride, padding, dilation, more)):
        return  # one number for all dimensions, which only a direct call leaves so
    if transposed and any(added >= step for added, step in zip(more, stride, strict=True)):
        return  # the plain convolution would reach one entry further
    if not transposed:
        padding = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        if any(step != 1 for step in stride) or min(padding) < 0:
            return
    with graph.inserting_before(node):
        if not transposed:
            weight = _turned(graph, weight, weight_shape, groups)
        called = (u, weight, None, stride, padding, dilation, False, [0] * len(kernel), groups)
        convolution = graph.call_function(_aten.convolution.default, called)
    convolution.meta["val"] = placeholder_for(image)
    linear.add(convolution)
    for user in list(node.users):
        replace(user, convolution, linear)
    erase(node, linear)


def _turned(graph: fx.Graph, weight: fx.Node, shape: torch.Size, groups: int) -> fx.Node:
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


def _pad_within(node: fx.Node, linear: set[fx.Node]) -> None:
    """Let a convolution after added zeros, or one of stride 1 before cut ones, pad by itself."""
    source, amounts, *value = arguments(node)
    shape = shape_of(source)
    if shape is None or (value and value[0] != 0) or not isinstance(source, fx.Node):
        return
    dims = len(shape) - 2
    # torch has (left, right) from the last dimension on.
    ends = list(zip(amounts[::2], amounts[1::2], strict=True))[::-1]
    if len(ends) > dims or any(left != right for left, right in ends):
        return
    added = [0] * (dims - len(ends)) + [left for left, _ in ends]
    if min(added) >= 0:
        _pad_the_next(node, source, added, linear)
    elif max(added) <= 0:
        _crop_the_previous(node, source, added, linear)


def _pad_the_next(node: fx.Node, source: fx.Node, added: list[int], linear: set[fx.Node]) -> None:
    for user in list(node.users):
        plain = user.target is _aten.convolution.default and not user.args[6]
        if plain and user.args[0] is node and user.args[1] is not node:
            _, *between, padding, dilation, transposed, ending, groups = arguments(user)
            if len(padding) != len(added):
                continue
            padding = [p + more for p, more in zip(padding, added, strict=True)]
            user.args = (source, *between, padding, dilation, transposed, ending, groups)
    if not node.users:
        erase(node, linear)


def _crop_the_previous(
    node: fx.Node, source: fx.Node, added: list[int], linear: set[fx.Node]
) -> None:
    if source.target is not _aten.convolution.default or len(source.users) > 1:
        return
    *operands, stride, padding, dilation, transposed, ending, groups = arguments(source)
    if len(padding) != len(added):
        return
    less = [p + more for p, more in zip(padding, added, strict=True)]
    if transposed or any(step != 1 for step in stride) or min(less) < 0:
        return
    source.args = (*operands, stride, less, dilation, transposed, ending, groups)
    source.meta["val"] = node.meta["val"]
    replace(node, source, linear)
