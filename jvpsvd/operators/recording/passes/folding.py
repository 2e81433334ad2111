"""Fold normalisation into convolution.

In evaluation mode batch norm multiplies every channel by a number. As recorded, it passes several
times over the whole block of directions in each layer. Folded into the weights of the adjacent
convolution, it takes no pass. Every rewriting is an identity of the real numbers and changes values
by rounding only. The nodes added here depend on the point alone, so that they run once per point,
in the primal graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import (
    drop_unread,
    erase,
    linear_calls,
    placeholder_for,
    replace,
    shape_of,
)

_aten = torch.ops.aten
_INPUT_ONLY = [True, False, False]
_ZEROS = (_aten.zeros.default, _aten.zeros_like.default, _aten.new_zeros.default)
_VIEWS = (
    *(_aten.view.default, _aten.reshape.default, _aten.expand.default, _aten.unsqueeze.default),
    *(_aten.t.default, _aten.transpose.int, _aten.permute.default, _aten.clone.default),
    *(_aten.alias.default, _aten.neg.default),
)
# Vanish where one of their factors does.
_PRODUCTS = (_aten.mul.Tensor, _aten.mm.default, _aten.bmm.default, _aten._trilinear.default)


def fold_linear(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Fold what multiplies or is added to directions into fewer passes over them.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    for node in linear_calls(module, linear, _aten.add.Tensor):
        _drop_zero_term(node, linear)
    for target, rewrite in (
        (_aten.native_batch_norm_backward.default, _scale_instead_of_batch_norm),
        (_aten.mul.Tensor, _merge_scales),
        (_aten.mul.Tensor, _fold_into_convolution),
        (_aten.convolution_backward.default, _fold_into_convolution_backward),
    ):
        for node in linear_calls(module, linear, target):
            rewrite(module.graph, node, linear)
    drop_unread(module, linear)


def _drop_zero_term(node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace t + c by t where c is zero, such as the products with a change of the weights.

    That t + c depends on a direction is not enough: the derivative of logcumsumexp adds to the
    logarithm of one.
    """
    if node.kwargs:
        return
    terms = [arg for arg in node.args if isinstance(arg, fx.Node)]
    kept = [term for term in terms if term in linear]
    dropped = [term for term in terms if term not in linear]
    if len(kept) != 1 or len(dropped) != 1 or shape_of(kept[0]) != shape_of(node):
        return
    if _is_zero(dropped[0]):
        replace(node, kept[0], linear)


def _is_zero(node: object) -> bool:
    """Return whether all entries of a tensor are zero, whatever the point is."""
    if not isinstance(node, fx.Node):
        return False
    if node.target in _ZEROS:
        return True
    if node.target in _VIEWS:
        return _is_zero(node.args[0])
    if node.target is _aten.convolution.default:
        image, weight, bias = node.args[:3]
        return (_is_zero(image) or _is_zero(weight)) and (bias is None or _is_zero(bias))
    return node.target in _PRODUCTS and any(map(_is_zero, node.all_input_nodes))


def _scale_instead_of_batch_norm(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace the backward pass of batch norm in evaluation mode by its factor per channel."""
    gradient, _, weight, _, variance, _, _, training, eps, mask = node.args
    if training or mask != _INPUT_ONLY or not isinstance(variance, fx.Node):
        return
    shape = shape_of(gradient)
    if shape is None or any(user.args[1] != 0 for user in node.users):
        return
    with graph.inserting_before(node):
        scale = graph.call_function(
            _aten.rsqrt.default, (graph.call_function(_aten.add.Scalar, (variance, eps)),)
        )
        if isinstance(weight, fx.Node):
            scale = graph.call_function(_aten.mul.Tensor, (scale, weight))
        scale = _per_channel(graph, scale, shape[1], len(shape))
        product = graph.call_function(_aten.mul.Tensor, (gradient, scale))
        product.meta["val"] = gradient.meta["val"] if isinstance(gradient, fx.Node) else None
        linear.add(product)
    for user in list(node.users):
        replace(user, product, linear)
    erase(node, linear)


def _merge_scales(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace (t · a) · b by t · (a · b) where the product of a and b is no larger than t."""
    scaled = _direction_and_scale(node, linear)
    if scaled is None:
        return
    source, b = scaled
    scaled_before = _direction_and_scale(source, linear)
    if scaled_before is None or len(source.users) > 1:
        return
    t, a = scaled_before
    dims = len(shape_of(t) or ())
    if shape_of(t) != shape_of(node) or None in (_channels(a, dims), _channels(b, dims)):
        return
    with graph.inserting_before(node):
        scale = graph.call_function(_aten.mul.Tensor, (a, b))
        scale.meta["val"] = placeholder_for(_broadcast(shape_of(a) or (), shape_of(b) or ()))
    node.args = (t, scale)
    erase(source, linear)


def _fold_into_convolution(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace conv(t, W) · c by conv(t, c · W) for a factor c per output channel."""
    parts = _direction_and_scale(node, linear)
    if parts is None:
        return
    convolution, scale = parts
    if convolution.target is not _aten.convolution.default or len(convolution.users) > 1:
        return
    t, weight, bias, *rest = convolution.args
    shape, transposed = shape_of(node), rest[3]
    if weight in linear or bias is not None or transposed or shape is None:
        return
    channels = _channels(scale, len(shape))
    if channels is None or channels != shape[1] or shape_of(convolution) != shape:
        return
    if not isinstance(weight, fx.Node):
        return
    with graph.inserting_before(node):
        scaled = _scaled_weight(graph, weight, scale, channels)
        folded = graph.call_function(_aten.convolution.default, (t, scaled, bias, *rest))
        folded.meta["val"] = node.meta["val"]
        linear.add(folded)
    replace(node, folded, linear)


def _fold_into_convolution_backward(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    """Replace conv'(u · c, W) by conv'(u, c · W) for a factor c per output channel."""
    gradient, point, weight, *rest = node.args
    mask, transposed = rest[-1], rest[4]
    if mask != _INPUT_ONLY or transposed or not isinstance(gradient, fx.Node):
        return
    parts = _direction_and_scale(gradient, linear)
    if parts is None or weight in linear or not isinstance(weight, fx.Node):
        return
    u, scale = parts
    shape = shape_of(u)
    if shape is None or shape_of(gradient) != shape:
        return
    channels = _channels(scale, len(shape))
    if channels is None or channels != shape[1]:
        return
    with graph.inserting_before(node):
        scaled = _scaled_weight(graph, weight, scale, channels)
    node.args = (u, point, scaled, *rest)


def _scaled_weight(graph: fx.Graph, weight: fx.Node, scale: fx.Node, channels: int) -> fx.Node:
    dims = len(shape_of(weight) or ())
    view = graph.call_function(_aten.reshape.default, (scale, [channels] + [1] * (dims - 1)))
    scaled = graph.call_function(_aten.mul.Tensor, (weight, view))
    scaled.meta["val"] = weight.meta["val"]
    return scaled


def _per_channel(graph: fx.Graph, scale: fx.Node, channels: int, dims: int) -> fx.Node:
    shape = [1, channels] + [1] * (dims - 2)
    view = graph.call_function(_aten.reshape.default, (scale, shape))
    view.meta["val"] = placeholder_for(shape)
    return view


def _direction_and_scale(node: fx.Node, linear: set[fx.Node]) -> tuple[fx.Node, fx.Node] | None:
    """Return (t, c) of a product t · c of a direction and a tensor that is none."""
    if node.target is not _aten.mul.Tensor or node.kwargs:
        return None
    first, second = node.args
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        return None
    if (first in linear) == (second in linear):
        return None
    return (first, second) if first in linear else (second, first)


def _channels(scale: fx.Node, dims: int) -> int | None:
    """Return C of a factor per channel of a block of `dims` dimensions; None of other factors.

    Its shape is (1, C, 1, …) or (C, 1, …, 1), so that it is broadcast along the second dimension.
    """
    shape = list(shape_of(scale) or ())
    if len(shape) == dims and shape[0] == 1:
        shape = shape[1:]
    if not shape or len(shape) != dims - 1 or any(size != 1 for size in shape[1:]):
        return None
    return shape[0]


def _broadcast(one: Sequence[int], other: Sequence[int]) -> Sequence[int]:
    return torch.broadcast_shapes(one, other)  # type: ignore[no-untyped-call, no-any-return]
