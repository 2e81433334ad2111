"""Multiply through attention without blocks of matrices of all pairs of tokens.

Directions go through the softmax of attention between products with matrices: of queries and keys
before it, and of values after it. Where these matrices are large, the operations become one, which
takes some rows at a time (see `softmax_products`). A factor as large as S itself is multiplied by
all directions at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import (
    drop_unread,
    linear_calls,
    placeholder_for,
    replace,
    shape_of,
)
from jvpsvd.operators.recording.softmax_products import (
    Layout,
    multiply_through_softmax,
    multiply_wide,
)

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten._unsafe_view.default, _aten.reshape.default)
_SCALES = (_aten.mul.Tensor, _aten.mul.Scalar, _aten.div.Tensor, _aten.div.Scalar)
# Fewer pairs of tokens, over all heads, are left to vmap.
PAIRS = 1 << 17


def multiply_attention_by_rows(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Replace products through large softmax values, and with them, by ones that copy nothing.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    for node in linear_calls(module, linear, _aten._softmax_backward_data.default):
        through = _find(node, linear)
        if through is not None:
            _rewrite(module.graph, node, through, linear)
    for node in linear_calls(module, linear, _aten.bmm.default):
        matrix, directions = node.args
        large = _pairs(shape_of(matrix)) >= max(PAIRS, _pairs(shape_of(directions)))
        if large and matrix not in linear:
            node.target = multiply_wide
    drop_unread(module, linear)


class _Term(NamedTuple):
    kind: str
    left: Any
    right: Any


class _Result(NamedTuple):
    kind: str
    node: fx.Node
    factor: Any
    scale: float


class _Through(NamedTuple):
    """What is multiplied to enter a softmax, and what its derivative is multiplied by."""

    terms: list[_Term]
    scale: float
    results: list[_Result]


def _find(node: fx.Node, linear: set[fx.Node]) -> _Through | None:
    """Return the products around the derivative of a softmax, where there is nothing else."""
    direction, value, dim, dtype = node.args
    shape = shape_of(value)
    if value in linear or shape is None or dtype != node.args[1].meta["val"].dtype:  # type: ignore[union-attr]
        return None
    if dim not in (-1, len(shape) - 1) or _pairs(shape) < PAIRS:
        return None
    source, scale = _before(direction)
    sum_of = source.args if _is_sum(source) else (source,)
    terms = [_term(each, linear) for each in sum_of]
    results = list(_after(node, node, 1.0))
    if None in terms or any(result.factor in linear for result in results):
        return None
    if not results or any(result.kind == "other" for result in results):
        return None
    return _Through([term for term in terms if term is not None], scale, results)


def _before(node: Any) -> tuple[Any, float]:
    """Return what a direction is before it is scaled and viewed as other heads."""
    scale = 1.0
    while isinstance(node, fx.Node) and len(node.users) == 1:
        factor = _scale_of(node)
        if factor is not None:
            scale *= factor
        elif not _is_view_of_heads(node):
            break
        node = node.args[0]
    return node, scale


def _after(node: fx.Node, made: fx.Node, scale: float) -> Iterator[_Result]:
    """Yield the products of what is made, after views and scales; "other" for anything else."""
    for user in made.users:
        factor = _scale_of(user)
        if factor is not None or _is_view_of_heads(user):
            yield from _after(node, user, scale * (1.0 if factor is None else factor))
        elif user.target is _aten.bmm.default and user.args[0] is made:
            yield _Result("rows", user, user.args[1], scale)
        elif user.target is _aten.bmm.default:
            yield _Result("columns", user, user.args[0], scale)
        else:
            yield _Result("other", user, None, scale)


def _term(node: Any, linear: set[fx.Node]) -> _Term | None:
    if not isinstance(node, fx.Node) or node.target is not _aten.bmm.default:
        return None
    left, right = node.args
    if len(node.users) > 1 or (left in linear) == (right in linear):
        return None
    return _Term("left" if left in linear else "right", left, right)


def _rewrite(graph: fx.Graph, node: fx.Node, through: _Through, linear: set[fx.Node]) -> None:
    value: Any = node.args[1]
    *heads, rows, columns = shape_of(value) or torch.Size()
    layout = Layout(
        tuple(term.kind for term in through.terms),
        tuple(result.kind for result in through.results),
    )
    products_before = {result.node for result in through.results}
    first = next(n for n in graph.nodes if n in products_before)
    _move_before(first, [result.factor for result in through.results])
    with graph.inserting_before(first):
        flat = graph.call_function(
            _aten.reshape.default, (value, [math.prod(heads), rows, columns])
        )
        flat.meta["val"] = placeholder_for([math.prod(heads), rows, columns])
        factors = [each for term in through.terms for each in (term.left, term.right)]
        factors += [result.factor for result in through.results]
        products = graph.call_function(multiply_through_softmax, (layout, flat, *factors))
        linear.add(products)
        images = []
        for index, result in enumerate(through.results):
            image = graph.call_function(getitem, (products, index))
            number = through.scale * result.scale
            if number != 1.0:
                linear.add(image)
                image = graph.call_function(_aten.mul.Scalar, (image, number))
            image.meta["val"] = result.node.meta["val"]
            linear.add(image)
            images.append(image)
    for result, image in zip(through.results, images, strict=True):
        replace(result.node, image, linear)


def _move_before(node: fx.Node, needed: list[fx.Node]) -> None:
    """Move values of the point, and what they are computed from, before a node."""
    order = {each: index for index, each in enumerate(node.graph.nodes)}
    later: set[fx.Node] = set()
    pending = list(needed)
    while pending:
        each = pending.pop()
        if order[each] > order[node] and each not in later:
            later.add(each)
            pending += each.all_input_nodes
    for each in sorted(later, key=order.__getitem__):
        node.prepend(each)


def _is_sum(node: Any) -> bool:
    return (
        isinstance(node, fx.Node)
        and node.target is _aten.add.Tensor
        and not node.kwargs
        and len(node.users) == 1
    )


def _scale_of(node: fx.Node) -> float | None:
    """Return the number that a node multiplies its first argument by; None if it does not."""
    if node.target not in _SCALES or node.kwargs or not isinstance(node.args[1], int | float):
        return None
    number = float(node.args[1])
    return 1 / number if node.target in (_aten.div.Tensor, _aten.div.Scalar) else number


def _is_view_of_heads(node: fx.Node) -> bool:
    """Return whether a node views matrices as the same matrices, in other leading dimensions."""
    if node.target not in _VIEWS:
        return False
    before, after = shape_of(node.args[0]), shape_of(node)
    return before is not None and after is not None and before[-2:] == after[-2:]


def _pairs(shape: torch.Size | None) -> int:
    return 0 if shape is None else shape.numel()
