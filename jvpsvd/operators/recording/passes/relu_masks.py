"""Apply the masks of clipping activations in place.

The derivative of a ReLU is a mask: zero or one for each entry, determined by the point. As
recorded, every product computes it from the activation again and writes a new block. Here the
primal graph keeps the mask, and a block that nothing else reads is overwritten.
"""

from __future__ import annotations

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import drop_unread, replace, shape_of

_aten = torch.ops.aten
# Each takes (direction, activation, thresholds): zero where a threshold is passed.
_MASKS = (_aten.threshold_backward.default, _aten.hardtanh_backward.default)


def mask_in_place(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Replace the derivatives of clipping activations by products with masks, in place where safe.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node not in linear or node.target not in _MASKS:
            continue
        direction, activation, *thresholds = node.args
        if direction not in linear or activation in linear or not isinstance(activation, fx.Node):
            continue
        if shape_of(activation) != shape_of(node) or shape_of(direction) != shape_of(node):
            continue
        with graph.inserting_before(node):
            ones = graph.call_function(_aten.ones_like.default, (activation,))
            mask = graph.call_function(node.target, (ones, activation, *thresholds))
            mask.meta["val"] = activation.meta["val"]
            overwrite = _is_fresh(direction)
            multiply = _aten.mul_.Tensor if overwrite else _aten.mul.Tensor
            product = graph.call_function(multiply, (direction, mask))
        product.meta["val"] = node.meta["val"]
        linear.add(product)
        replace(node, product, linear)
    drop_unread(module, linear)


def _is_fresh(node: object) -> bool:
    """Return whether a convolution made the block, and nothing but the mask reads it."""
    if not isinstance(node, fx.Node) or node.target is not _aten.convolution.default:
        return False
    return len(node.users) == 1
