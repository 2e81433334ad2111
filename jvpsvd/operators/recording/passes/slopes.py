"""Apply the slopes of activations in place.

The derivative of an activation is a slope for each entry, determined by the point: of a ReLU a
mask, zero or one. As recorded, every product computes it from the activation again and writes a new
block. Here the primal graph keeps the slope, and a block that nothing else reads is overwritten.
"""

from __future__ import annotations

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import drop_unread, replace, shape_of

_aten = torch.ops.aten
# Each takes (direction, activation, …).
_SLOPES = (
    _aten.threshold_backward.default,
    _aten.hardtanh_backward.default,
    _aten.gelu_backward.default,
    _aten.silu_backward.default,
    _aten.mish_backward.default,
    _aten.hardswish_backward.default,
)
# What makes a block of its own.
_PRODUCTS = (_aten.convolution.default, _aten.mm.default)


def apply_slopes_in_place(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Replace the derivatives of activations by products with slopes, in place where safe.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node not in linear or node.target not in _SLOPES:
            continue
        direction, activation, *more = node.args
        if direction not in linear or activation in linear or not isinstance(activation, fx.Node):
            continue
        if shape_of(activation) != shape_of(node) or shape_of(direction) != shape_of(node):
            continue
        with graph.inserting_before(node):
            ones = graph.call_function(_aten.ones_like.default, (activation,))
            slope = graph.call_function(node.target, (ones, activation, *more), node.kwargs)
            slope.meta["val"] = activation.meta["val"]
            overwrite = _is_fresh(direction)
            multiply = _aten.mul_.Tensor if overwrite else _aten.mul.Tensor
            product = graph.call_function(multiply, (direction, slope))
        product.meta["val"] = node.meta["val"]
        linear.add(product)
        replace(node, product, linear)
    drop_unread(module, linear)


def _is_fresh(node: object) -> bool:
    """Return whether a product made the block, and nothing but the slope reads it."""
    if not isinstance(node, fx.Node) or node.target not in _PRODUCTS:
        return False
    return len(node.users) == 1
