"""Take JVPs of softmax from its value, as its VJPs are.

The Jacobian of softmax is symmetric: J t = S · (t − Σ S t), for the value S. As recorded, forward
mode computes Σ S t from exponentials of its own, so that attention keeps a second matrix of all
pairs of tokens. With S alone, both products of a layer read the same matrix.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.operators.recording.passes.fx_tools import drop_unread, linear_calls, replace

_aten = torch.ops.aten
_SOFTMAX = (_aten._softmax.default, _aten._safe_softmax.default)


def take_softmax_from_value(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Replace the derivative of softmax in forward mode by that of reverse mode.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    for node in linear_calls(module, linear, _aten.mul.Tensor):
        found = _direction_of_softmax(node)
        if found is None:
            continue
        direction, value, dim = found
        with module.graph.inserting_before(node):
            image = module.graph.call_function(
                _aten._softmax_backward_data.default,
                (direction, value, dim, value.meta["val"].dtype),
            )
        image.meta["val"] = node.meta["val"]
        linear.add(image)
        replace(node, image, linear)
    drop_unread(module, linear)


def _direction_of_softmax(node: fx.Node) -> tuple[fx.Node, fx.Node, int] | None:
    """Return (t, S, dimension) of S · (t − Σ E t / Σ E), E the exponentials of softmax."""
    value, rest = node.args
    if not isinstance(value, fx.Node) or value.target not in _SOFTMAX or node.kwargs:
        return None
    if not isinstance(value.meta.get("val"), Tensor):
        return None
    source, dim = value.args[:2]
    direction, mean = _match_call(rest, _aten.sub.Tensor, 2)
    if isinstance(mean, fx.Node) and mean.target is _aten.where.self:
        # Zero in rows that are masked as a whole, where S is zero.
        _, zero, mean = mean.args
        if _match_call(zero, _aten.scalar_tensor.default, 1) != (0.0,):
            return None
    sums, whole = _match_call(mean, _aten.div.Tensor, 2)
    scaled, *of_sums = _match_call(sums, _aten.sum.dim_IntList, 3)
    exponentials, *of_whole = _match_call(whole, _aten.sum.dim_IntList, 3)
    if of_sums != [[dim], True] or of_whole != [[dim], True]:
        return None
    if {*_match_call(scaled, _aten.mul.Tensor, 2)} != {exponentials, direction}:
        return None
    (shifted,) = _match_call(exponentials, _aten.exp.default, 1)
    shifted_source, largest = _match_call(shifted, _aten.sub.Tensor, 2)
    if shifted_source is not source or _match_call(largest, _aten.amax.default, 3)[0] is not source:
        return None
    if not isinstance(direction, fx.Node) or not isinstance(dim, int):
        return None
    return direction, value, dim


def _match_call(node: Any, target: object, count: int) -> tuple[Any, ...]:
    """Return the arguments of a call of an operation; as many times None of anything else."""
    if isinstance(node, fx.Node) and node.target is target and len(node.args) == count:
        return node.args
    return (None,) * count
