"""Multiply through attention without blocks of matrices of all pairs of tokens.

Directions go through the softmax of attention between products with matrices: of queries and keys
before it, and of values after it. Where these matrices are large, the operations become one, which
takes some rows at a time (see `softmax_products`); masks and the slopes of caps between them are
factors of the entries. A factor as large as S itself is multiplied by all directions at once.
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
# Of a direction and of values of the point, entry by entry.
_OF_ENTRIES = (
    _aten.mul.Tensor,
    _aten.masked_fill.Scalar,
    _aten.masked_fill.Tensor,
    _aten.where.self,
    _aten.tanh_backward.default,
)
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
        large = _count_pairs(shape_of(matrix)) >= max(PAIRS, _count_pairs(shape_of(directions)))
        if large and matrix not in linear:
            node.target = multiply_wide
    drop_unread(module, linear)


class _Path(NamedTuple):
    """What a direction is multiplied by between two products of matrices."""

    scale: float = 1.0
    entries: tuple[fx.Node, ...] = ()
    """Nodes that multiply it by a number for each pair of tokens."""


class _Term(NamedTuple):
    kind: str
    left: Any
    right: Any


class _Result(NamedTuple):
    kind: str
    node: fx.Node
    factor: Any
    path: _Path


class _Through(NamedTuple):
    """What is multiplied to enter a softmax, and what its derivative is multiplied by."""

    terms: list[_Term]
    path: _Path
    results: list[_Result]


def _find(node: fx.Node, linear: set[fx.Node]) -> _Through | None:
    """Return the products around the derivative of a softmax, where there is nothing else."""
    direction, value, dim, dtype = node.args
    shape = shape_of(value)
    if value in linear or shape is None or dtype != node.args[1].meta["val"].dtype:  # type: ignore[union-attr]
        return None
    if dim not in (-1, len(shape) - 1) or _count_pairs(shape) < PAIRS:
        return None
    source, path = _before(direction, linear)
    before = [_before(each, linear) for each in (source.args if _is_sum(source) else (source,))]
    terms = [_term(each, linear) for each, _ in before]
    scales = {of_term.scale for _, of_term in before}
    if None in terms or len(scales) > 1 or any(of_term.entries for _, of_term in before):
        return None
    results = list(_after(node, _Path(), linear))
    if any(result.kind == "other" or result.factor in linear for result in results):
        return None
    if len({result.path.entries for result in results}) != 1:
        return None
    path = path._replace(scale=path.scale * scales.pop())
    return _Through([term for term in terms if term is not None], path, results)


def _before(node: Any, linear: set[fx.Node]) -> tuple[Any, _Path]:
    """Return what a direction is before it is multiplied by entries and viewed as other heads."""
    path = _Path()
    while isinstance(node, fx.Node) and len(node.users) == 1:
        longer = _extend(path, node, linear)
        if longer is None:
            break
        path, node = longer, _direction_of(node, linear)
    return node, path


def _after(made: fx.Node, path: _Path, linear: set[fx.Node]) -> Iterator[_Result]:
    """Yield the products of what is made, with the path there; "other" for anything else."""
    for user in made.users:
        longer = _extend(path, user, linear)
        if longer is not None:
            yield from _after(user, longer, linear)
        elif user.target is _aten.bmm.default and user.args[0] is made:
            yield _Result("rows", user, user.args[1], path)
        elif user.target is _aten.bmm.default:
            yield _Result("columns", user, user.args[0], path)
        else:
            yield _Result("other", user, None, path)


def _extend(path: _Path, node: fx.Node, linear: set[fx.Node]) -> _Path | None:
    """Return the path that a node goes on; None of a node that does something else."""
    scale = _scale_of(node)
    if scale is not None:
        return path._replace(scale=path.scale * scale)
    if _is_view_of_heads(node):
        return path
    if _multiplies_entries(node, linear):
        return path._replace(entries=(*path.entries, node))
    return None


def _multiplies_entries(node: fx.Node, linear: set[fx.Node]) -> bool:
    """Return whether a node multiplies a direction by a number for each entry, of a mask or slope.

    What a mask writes into a direction is zero, since the node is linear in it.
    """
    if node.kwargs or node.target not in _OF_ENTRIES:
        return False
    direction, *more = [each for each in node.all_input_nodes if each in linear]
    return not more and shape_of(direction) == shape_of(node)


def _direction_of(node: fx.Node, linear: set[fx.Node]) -> fx.Node:
    return next(each for each in node.all_input_nodes if each in linear)


def _entries_factor(
    graph: fx.Graph, nodes: tuple[fx.Node, ...], heads: int, linear: set[fx.Node]
) -> fx.Node | None:
    """Return the product of what nodes multiply entries by, (heads or 1, rows, columns).

    What a node makes of ones is that factor. One for all heads is made once.
    """
    factor: fx.Node | None = None
    for node in nodes:
        direction = _direction_of(node, linear)
        *leading, rows, columns = shape_of(node) or torch.Size()
        others = [shape_of(each) for each in node.all_input_nodes if each is not direction]
        if all(other is not None and other[:-2].numel() == 1 for other in others):
            leading = [1] * len(leading)
        like = direction.meta["val"]
        options = {"dtype": like.dtype, "device": like.device}
        ones = graph.call_function(_aten.ones.default, ([*leading, rows, columns],), options)
        arguments = tuple(ones if each is direction else each for each in node.args)
        made = graph.create_node("call_function", node.target, arguments)
        shape = [heads if math.prod(leading) > 1 else 1, rows, columns]
        flat = graph.call_function(_aten.reshape.default, (made, shape))
        factor = flat if factor is None else graph.call_function(_aten.mul.Tensor, (factor, flat))
    return factor


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
    after = through.results[0].path.entries
    layout = Layout(
        tuple(term.kind for term in through.terms),
        tuple(result.kind for result in through.results),
        before=bool(through.path.entries),
        after=bool(after),
    )
    products_before = {result.node for result in through.results}
    first = next(n for n in graph.nodes if n in products_before)
    of_entries = [n for each in (*through.path.entries, *after) for n in each.all_input_nodes]
    needed = [n for n in of_entries if n not in linear]
    _move_before(first, [*needed, *(result.factor for result in through.results)])
    with graph.inserting_before(first):
        flat = graph.call_function(
            _aten.reshape.default, (value, [math.prod(heads), rows, columns])
        )
        flat.meta["val"] = placeholder_for([math.prod(heads), rows, columns])
        found = (
            _entries_factor(graph, nodes, math.prod(heads), linear)
            for nodes in (through.path.entries, after)
        )
        factors = [each for each in found if each is not None]
        factors += [each for term in through.terms for each in (term.left, term.right)]
        factors += [result.factor for result in through.results]
        products = graph.call_function(multiply_through_softmax, (layout, flat, *factors))
        linear.add(products)
        images = []
        for index, result in enumerate(through.results):
            image = graph.call_function(getitem, (products, index))
            number = through.path.scale * result.path.scale
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


def _count_pairs(shape: torch.Size | None) -> int:
    return 0 if shape is None else shape.numel()
