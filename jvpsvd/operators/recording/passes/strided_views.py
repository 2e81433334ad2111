"""Views by strides that only reshape, written as views, which vmap can replay.

torch gives the mean over an image in channels-last order the strides of that order, in place:
recorded, that is an `as_strided`, and an `as_strided_scatter` in the derivative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.operators.recording.passes.fx_tools import arguments, drop_dead_code

_aten = torch.ops.aten


def reshape_strided_views(module: fx.GraphModule) -> None:
    """Replace reads and writes by strides that take every entry in its order."""
    for node in list(module.graph.nodes):
        if node.target is _aten.as_strided.default:
            _replace_read(module.graph, node)
        elif node.target is _aten.as_strided_scatter.default:
            _replace_write(module.graph, node)
    drop_dead_code(module.graph)


def _replace_read(graph: fx.Graph, node: fx.Node) -> None:
    base, size, *where = arguments(node)
    if _takes_all_in_order(base, size, *where):
        _replace(graph, node, base, size)


def _replace_write(graph: fx.Graph, node: fx.Node) -> None:
    base, source, size, *where = arguments(node)
    if _takes_all_in_order(base, size, *where):
        _replace(graph, node, source, list(node.meta["val"].shape))


def _takes_all_in_order(base: Any, size: Any, stride: Any, offset: int | None = None) -> bool:
    """Return whether a view by strides reads all entries of a tensor as reshaping it does."""
    value = base.meta["val"]
    if not isinstance(value, Tensor) or value.numel() != torch.Size(size).numel():
        return False
    memory = torch.arange(value.untyped_storage().nbytes() // value.element_size(), device="cpu")
    first = value.storage_offset()
    own = memory.as_strided(value.shape, value.stride(), first)
    seen = memory.as_strided(size, stride, first if offset is None else offset)
    return torch.equal(own.flatten(), seen.flatten())


def _replace(graph: fx.Graph, node: fx.Node, by: Any, shape: Any) -> None:
    with graph.inserting_before(node):
        reshaped = graph.call_function(_aten.reshape.default, (by, list(shape)))
    reshaped.meta = node.meta
    node.replace_all_uses_with(reshaped)
    graph.erase_node(node)
