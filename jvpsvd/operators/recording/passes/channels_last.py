"""Lay images out with their channels last.

On the CPU the convolutions of torch work on that layout. Blocks of channels-first images are
converted to another one and back at every layer. Here the factors of directions are converted once
per point, and the directions once per product.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from jvpsvd.operators.recording.passes.fx_tools import (
    arguments,
    drop_unread,
    placeholder_for,
    shape_of,
)

_aten = torch.ops.aten
_CONVOLUTIONS = (_aten.convolution.default, _aten.convolution_backward.default)
_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def channels_last_pays(example: Tensor) -> bool:
    """Return whether channels belong last in blocks like this tensor.

    In float64 torch has its own convolutions, which want channels first; on a GPU without reduced
    precision neither layout was found to be better.

    >>> channels_last_pays(torch.zeros(2)), channels_last_pays(torch.zeros(2, dtype=torch.float64))
    (True, False)
    """
    return example.device.type == "cpu" and example.dtype == torch.float32


def has_convolutions(graph: fx.Graph) -> bool:
    """Return whether there are convolutions, the only ones that ask for a layout.

    >>> has_convolutions(fx.Graph())
    False
    """
    return any(node.target in _CONVOLUTIONS for node in graph.nodes)


def lay_out_channels_last(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Lay out channels last what runs through two-dimensional convolutions.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    graph = module.graph
    if not any(n in linear and n.target in _CONVOLUTIONS and _is_image(n) for n in graph.nodes):
        return
    converted: dict[fx.Node, fx.Node] = {}
    # Views hold for one layout; a reshape is the view wherever there is one.
    for node in graph.nodes:
        if node in linear and node.target in (_aten.view.default, _aten._unsafe_view.default):
            node.target = _aten.reshape.default
    carrying = _turn_directions(graph, linear)
    for node in list(graph.nodes):
        if node not in linear or node.op != "call_function":
            continue
        if node.target in _CONVOLUTIONS and _is_image(node):
            carrying.add(node)
            _convert_factors(graph, node, linear, converted)
        elif carrying.isdisjoint(node.all_input_nodes):
            continue
        elif node.target is _aten.constant_pad_nd.default:
            carrying.add(_pad_channels_last(graph, node, linear))
        elif _is_getitem(node):
            carrying.add(node)
        elif torch.Tag.pointwise in getattr(node.target, "tags", ()) and _is_image(node):
            carrying.add(node)
            _convert_factors(graph, node, linear, converted)
    drop_unread(module, linear)


def _turn_directions(graph: fx.Graph, linear: set[fx.Node]) -> set[fx.Node]:
    """Convert the images among the directions themselves; return what they became."""
    turned: set[fx.Node] = set()
    placeholders = graph.find_nodes(op="placeholder")
    first = next(node for node in graph.nodes if node.op != "placeholder")
    for direction in placeholders:
        if direction not in linear or not _is_image(direction):
            continue
        users = list(direction.users)
        with graph.inserting_before(first):
            steps = _as_channels_last(graph, direction)
        linear.update(steps)
        turned.add(steps[-1])
        for user in users:
            user.replace_input_with(direction, steps[-1])
    return turned


def _convert_factors(
    graph: fx.Graph, node: fx.Node, linear: set[fx.Node], converted: dict[fx.Node, fx.Node]
) -> None:
    """Convert the images and kernels that multiply directions in a linear operation."""
    for factor in node.all_input_nodes:
        if factor in linear or not _is_image(factor):
            continue
        if factor not in converted:
            with graph.inserting_before(node):
                converted[factor] = _as_channels_last(graph, factor)[-1]
        node.replace_input_with(factor, converted[factor])


def _as_channels_last(graph: fx.Graph, node: fx.Node) -> list[fx.Node]:
    """Return the nodes of a copy with channels last, of the same logical shape.

    Made of steps that `torch.func.vmap` can take, which a memory format is not.
    """
    last = graph.call_function(_aten.permute.default, (node, _LAST))
    copy = graph.call_function(
        _aten.clone.default, (last,), {"memory_format": torch.contiguous_format}
    )
    first = graph.call_function(_aten.permute.default, (copy, _FIRST))
    batch, channels, *image = shape_of(node) or torch.Size([0] * 4)
    copy.meta["val"] = placeholder_for([batch, *image, channels])
    first.meta["val"] = placeholder_for([batch, channels, *image])
    return [last, copy, first]


def _pad_channels_last(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> fx.Node:
    """Pad the image as it lies in memory: `constant_pad_nd` would put channels first again."""
    source, amounts, *value = arguments(node)
    if len(amounts) > 4 or not _is_image(node):
        return node
    with graph.inserting_before(node):
        last = graph.call_function(_aten.permute.default, (source, _LAST))
        padded = graph.call_function(
            _aten.constant_pad_nd.default, (last, [0, 0, *amounts], *value)
        )
        first = graph.call_function(_aten.permute.default, (padded, _FIRST))
    batch, channels, *image = shape_of(node) or torch.Size([0] * 4)
    padded.meta["val"] = placeholder_for([batch, *image, channels])
    first.meta["val"] = node.meta["val"]
    linear.update((last, padded, first))
    node.replace_all_uses_with(first)
    graph.erase_node(node)
    linear.discard(node)
    return first


def _is_getitem(node: fx.Node) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _is_image(node: fx.Node) -> bool:
    """Return whether it has two dimensions besides those of batch and channels."""
    shape = shape_of(node)
    if shape is None and node.target is _aten.convolution_backward.default:
        shape = shape_of(node.args[1])
    return shape is not None and len(shape) == 4
