"""Whether two recorded graphs are the same, node by node."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.operators.function.pytrees import is_same_number
from jvpsvd.operators.recording.sizes import call_of_same_shapes

_aten = torch.ops.aten


def are_same_graphs(
    ours: fx.GraphModule, theirs: fx.GraphModule, *, any_shapes: bool = False
) -> bool:
    """Return whether two graphs call the same operations on the same values, with equal numbers.

    Args:
        ours: A graph.
        theirs: Another.
        any_shapes: Whether the shapes that nodes compare (see `sizes`) may differ.

    >>> from jvpsvd.operators.recording.operations import record_operations
    >>> x = torch.ones(3)
    >>> once, again = (record_operations(lambda x: (2 * x).sin(), x) for _ in range(2))
    >>> other = record_operations(lambda x: (3 * x).sin(), x)
    >>> are_same_graphs(once, again), are_same_graphs(once, other)
    (True, False)
    """
    nodes = list(ours.graph.nodes), list(theirs.graph.nodes)
    if len(nodes[0]) != len(nodes[1]):
        return False
    counterpart: dict[fx.Node, fx.Node] = {}
    for one, other in zip(*nodes, strict=True):
        if one.op != other.op:
            return False
        if one.op == "get_attr":
            made_anew = _is_made_anew(one) and _is_made_anew(other)
            attributes = _attribute(ours, one), _attribute(theirs, other)
            same = _is_same_tensor(*attributes, made_anew=made_anew)
        elif one.op == "placeholder":
            same = True
        else:
            args, other_args = one.args, other.args
            if any_shapes and one.target is call_of_same_shapes is other.target:
                args, other_args = _without_shapes(args), _without_shapes(other_args)
            same = one.target == other.target or one.op == "output"
            same = same and _is_same(args, other_args, counterpart)
            same = same and _is_same(one.kwargs, other.kwargs, counterpart)
        if not same:
            return False
        counterpart[one] = other
    return True


def _without_shapes(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0], *args[2:])


def _attribute(module: fx.GraphModule, node: fx.Node) -> object:
    return getattr(module, str(node.target))


def _is_same(one: Any, other: Any, counterpart: dict[fx.Node, fx.Node]) -> bool:
    """Return whether arguments are the same; 1, 1.0 and True are not, nor 0.0 and -0.0."""
    if isinstance(one, fx.Node):
        return counterpart.get(one) is other
    if isinstance(one, tuple | list):
        same_kind = isinstance(other, tuple | list) and len(one) == len(other)
        return same_kind and all(
            _is_same(*pair, counterpart) for pair in zip(one, other, strict=True)
        )
    if isinstance(one, dict):
        same_kind = isinstance(other, dict) and list(one) == list(other)
        return same_kind and all(_is_same(one[key], other[key], counterpart) for key in one)
    if isinstance(one, slice):
        return isinstance(other, slice) and all(
            _is_same(getattr(one, part), getattr(other, part), counterpart)
            for part in ("start", "stop", "step")
        )
    if isinstance(one, Tensor):
        return one is other
    return is_same_number(one, other)


def _is_same_tensor(ours: object, theirs: object, *, made_anew: bool) -> bool:
    """Return whether two attributes are one tensor, or were made anew with the same entries.

    Other tensors that are equal may change apart.
    """
    if ours is theirs:
        return True
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
        return False
    kinds = [(each.shape, each.stride(), each.dtype, each.device) for each in (ours, theirs)]
    return kinds[0] == kinds[1] and made_anew and torch.equal(ours, theirs)


def _is_made_anew(node: fx.Node) -> bool:
    """Return whether a tensor is one that the function makes by itself, as by `torch.tensor`."""
    return all(user.target is _aten.lift_fresh_copy.default for user in node.users)
