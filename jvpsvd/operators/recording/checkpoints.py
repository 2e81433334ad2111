"""Keep few values of a point, and compute the others again with each block of products.

A recording keeps all activations that its products need. Here the primal graph is cut into
segments, and only the values that cross a cut are kept. A product goes through the segments one
after another, and computes the activations of each again while it is there. That is one evaluation
more for each block of vectors, however wide.

Sources: Griewank & Walther (2000), Algorithm 799; Chen, Xu, Zhang & Guestrin (2016), Training deep
nets with sublinear memory cost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from torch import Tensor, fx

from jvpsvd.operators.recording.graphs import ProductGraph, Recording
from jvpsvd.operators.recording.passes.fx_tools import (
    aliases_of,
    copy_node,
    drop_dead_code,
    mutated_base,
    mutated_families,
    owner_of,
    stored_bytes,
)
from jvpsvd.operators.recording.segments import (
    Part,
    Segment,
    SegmentedProduct,
    part_graph,
    split_product,
)

logger = logging.getLogger(__name__)

# Numbers of segments that are tried, and the share of the bytes that must not be exceeded: guesses.
_MOST_SEGMENTS, _WORTH = 64, 0.8


def keep_checkpoints(recording: Recording) -> Recording:
    """Return a recording that keeps checkpoints of a point, or itself where that saves little.

    >>> import torch
    >>> from jvpsvd.operators import Trace
    >>> def deep(x):
    ...     for _ in range(100):
    ...         x = torch.sin(x)
    ...     return x
    >>> recording = Trace(deep, torch.ones(1000)).recording
    >>> fewer = keep_checkpoints(recording)
    >>> fewer.bytes_of_point < recording.bytes_of_point / 4
    True
    >>> v = torch.ones(1, 1000)
    >>> torch.equal(fewer.at(v[0])[0].jvp(v), recording.at(v[0])[0].jvp(v))
    True
    """
    graph = recording.primal.graph
    output: Any = graph.output_node().args[0]
    values, kept = list(output[0]), list(output[1])
    families = mutated_families(graph)
    if not all(map(_is_changed_before_it_is_read, families)):
        logger.info("all values of a point are kept: fn changes tensors that it has read in place")
        return recording
    computed = _in_order_of_depth(graph, values, families)
    cuts = _choose_cuts(computed, kept, families)
    segment_of = _segments(computed, cuts)
    products = [
        _split(product, kept, segment_of, len(cuts) + 1, forward=forward)
        for one in recording.outputs
        for product, forward in ((one.jvp, True), (one.vjp, False))
        if isinstance(product, ProductGraph)
    ]
    held = {node for product in products for node in product.held(segment_of)}
    again = [_recompute(recording.primal, product, held, segment_of) for product in products]
    order = dict.fromkeys(node for node in kept if node in held)
    order |= dict.fromkeys(node for parts in again for part in parts for node in part.checkpoints)
    (x, *_) = graph.find_nodes(op="placeholder")
    largest = max((stored_bytes(part.wanted) for parts in again for part in parts), default=0)
    kept_now = (node for node in order if node in segment_of)  # the rest are weights
    size = stored_bytes((x, *values, *kept_now)) + largest
    if size > _WORTH * recording.bytes_of_point:
        logger.info("all values of a point are kept: checkpoints would save too little")
        return recording
    index = {node: position for position, node in enumerate(order)}
    segmented = iter(
        _segment(product, parts, index) for product, parts in zip(products, again, strict=True)
    )
    outputs = tuple(
        replace(one, jvp=next(segmented), vjp=next(segmented)) for one in recording.outputs
    )
    primal = _primal_graph(recording.primal, values, list(order))
    return replace(recording, primal=primal, outputs=outputs, bytes_of_point=size)


@dataclass(frozen=True)
class _Split:
    """A product, its parts, and the primal nodes of the values that it reads."""

    product: ProductGraph
    parts: list[Part]
    primal_of: dict[fx.Node, fx.Node]

    def held(self, segment_of: dict[fx.Node, int]) -> set[fx.Node]:
        """Return the primal nodes that a part reads and its segment does not compute."""
        read = [(self.primal_of[node], part.segment) for part in self.parts for node in part.saved]
        return {node for node, segment in read if segment_of.get(node) != segment}


@dataclass(frozen=True)
class _Recomputed:
    """How the values that one part of a product reads are computed again."""

    graph: fx.GraphModule
    checkpoints: list[fx.Node]
    wanted: list[fx.Node]


def _split(
    product: ProductGraph,
    kept: Sequence[fx.Node],
    segment_of: dict[fx.Node, int],
    count: int,
    *,
    forward: bool,
) -> _Split:
    if product.graph is None:
        return _Split(product, [], {})
    _, *saved = product.graph.graph.find_nodes(op="placeholder")
    primal_of = {node: kept[i] for node, i in zip(saved, product.saved, strict=True)}
    segments = {n: segment_of[p] for n, p in primal_of.items() if p in segment_of}
    parts = split_product(product.graph.graph, segments, count, forward=forward)
    return _Split(product, parts, primal_of)


def _recompute(
    primal: fx.GraphModule, split: _Split, held: set[fx.Node], segment_of: dict[fx.Node, int]
) -> list[_Recomputed]:
    found = []
    for part in split.parts:
        read = (split.primal_of[node] for node in part.saved)
        wanted = list(dict.fromkeys(node for node in read if node not in held))
        found.append(_values_again(primal, part.segment, wanted, held, segment_of))
    return found


def _values_again(
    primal: fx.GraphModule,
    segment: int,
    wanted: list[fx.Node],
    held: set[fx.Node],
    segment_of: dict[fx.Node, int],
) -> _Recomputed:
    """Return the graph of the wanted values of a segment, from those of earlier segments."""
    needed, inputs = set(wanted), set()
    inside: list[fx.Node] = []
    for node in reversed(primal.graph.nodes):
        base = mutated_base(node)
        if base is not None and not needed.isdisjoint(aliases_of(base)):
            needed.add(node)
        if node not in needed:
            continue
        if segment_of.get(node) != segment or node in held:
            inputs.add(node)
            continue
        inside.append(node)
        needed.update(node.all_input_nodes)
    checkpoints = [node for node in primal.graph.nodes if node in inputs]
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in checkpoints}
    for node in reversed(inside):
        copies[node] = copy_node(graph, node, copies)
    graph.output(tuple(copies[node] for node in wanted))
    return _Recomputed(fx.GraphModule(primal, graph), checkpoints, wanted)


def _segment(
    split: _Split, again: Sequence[_Recomputed], index: dict[fx.Node, int]
) -> ProductGraph | SegmentedProduct:
    owner = split.product.graph
    if owner is None:
        return split.product
    segments = []
    for part, values in zip(split.parts, again, strict=True):
        read = {split.primal_of[node]: node for node in part.saved}
        held = [node for node in read if node not in values.wanted]
        placeholders = [read[node] for node in (*values.wanted, *held)]
        segments.append(
            Segment(
                values.graph,
                tuple(index[node] for node in values.checkpoints),
                tuple(index[node] for node in held),
                part_graph(owner, part, placeholders),
                tuple(node.name for node in part.carried),
                tuple(node.name for node in part.results),
            )
        )
    direction, *_ = owner.graph.find_nodes(op="placeholder")
    (output,) = owner.graph.output_node().all_input_nodes
    return SegmentedProduct(split.product, tuple(segments), direction.name, output.name)


def _primal_graph(
    primal: fx.GraphModule, values: Sequence[fx.Node], kept: Sequence[fx.Node]
) -> fx.GraphModule:
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in primal.graph.nodes:
        if node.op != "output":
            copies[node] = copy_node(graph, node, copies)
    graph.output(([copies[node] for node in values], [copies[node] for node in kept]))
    drop_dead_code(graph)
    return fx.GraphModule(primal, graph)


def _is_changed_before_it_is_read(family: set[fx.Node]) -> bool:
    """Return whether tensors that share memory are new, and read once they are as they stay."""
    order = {node: index for index, node in enumerate(next(iter(family)).graph.nodes)}
    readers = {user for node in family for user in node.users if user.op != "output"} - family
    last = max(order[node] for node in family if mutated_base(node) is not None)
    new = all(node.op == "call_function" for node in family)
    return new and all(order[reader] > last for reader in readers)


def _in_order_of_depth(
    graph: fx.Graph, values: Iterable[fx.Node], families: Iterable[set[fx.Node]]
) -> list[fx.Node]:
    """Return what is computed, slopes and the like right behind what they are computed from.

    They were recorded in the reverse pass, behind all values. What shares memory stays together.
    """
    position = {node: index for index, node in enumerate(graph.nodes)}
    forward, pending = set(values), list(values)
    while pending:
        new = [node for node in pending.pop().all_input_nodes if node not in forward]
        forward.update(new)
        pending.extend(new)
    depth: dict[fx.Node, int] = {}
    for node in graph.nodes:
        inputs = (depth[each] for each in node.all_input_nodes)
        depth[node] = position[node] if node in forward else max(inputs, default=0)
    for family in families:
        depth |= dict.fromkeys(family, max(depth[node] for node in family))
    computed = [node for node in graph.nodes if node.op == "call_function"]
    return sorted(computed, key=lambda node: (depth[node], position[node]))


def _segments(computed: Sequence[fx.Node], cuts: Sequence[int]) -> dict[fx.Node, int]:
    """Return the segment of each node that computes something."""
    ends = [0, *cuts, len(computed)]
    return {
        node: segment
        for segment, (start, end) in enumerate(pairwise(ends))
        for node in computed[start:end]
    }


def _choose_cuts(
    computed: Sequence[fx.Node], kept: Iterable[fx.Node], families: Iterable[set[fx.Node]]
) -> list[int]:
    """Return before which operations to cut, so that checkpoints and one segment take least."""
    crossing = _crossing_bytes(computed, families)
    owners = {owner_of(node) for node in kept}
    saved = [_count_bytes(node) if node in owners else 0 for node in computed]
    before = [0, *accumulate(saved)]  # before[p]: what operations up to p leave for products
    total = before[-1]
    best: tuple[float, list[int]] = (total, [])
    for count in range(2, min(_MOST_SEGMENTS, len(computed)) + 1):
        cuts = sorted(
            {
                _best_cut(before, crossing, total * j / count, total / count / 2)
                for j in range(1, count)
            }
        )
        ends = [0, *cuts, len(computed)]
        size = sum(crossing[cut] for cut in cuts) + max(
            before[end] - before[start] for start, end in pairwise(ends)
        )
        best = min(best, (size, cuts), key=lambda each: each[0])
    return best[1]


def _best_cut(before: Sequence[int], crossing: Sequence[float], target: float, reach: float) -> int:
    """Return the cut that least crosses, of those with about as many bytes before them."""
    near = [p for p in range(1, len(before) - 1) if abs(before[p] - target) <= reach]
    near = near or [min(range(1, len(before) - 1), key=lambda p: abs(before[p] - target))]
    return min(near, key=lambda p: (crossing[p], abs(before[p] - target)))


def _crossing_bytes(computed: Sequence[fx.Node], families: Iterable[set[fx.Node]]) -> list[float]:
    """Return the bytes that are computed before each cut and read after it.

    They are infinite between an operation with several results and the last of these, and between
    nodes that share memory that is changed.
    """
    position = {node: index for index, node in enumerate(computed)}
    last = dict(position)
    for node in computed:
        for read in node.all_input_nodes:
            for source in {read, owner_of(read)} & position.keys():
                last[source] = max(last[source], position[node])
    change = [0.0] * (len(computed) + 2)
    for node, end in last.items():
        change[position[node] + 1] += _count_bytes(node)
        change[end + 1] -= _count_bytes(node)
    crossing = [*accumulate(change)][: len(computed) + 1]
    spans = [
        (position[node], last[node])
        for node in computed
        if not isinstance(node.meta.get("val"), Tensor)
    ]
    for family in families:
        places = [position[node] for node in family]
        spans.append((min(places), max(places)))
    for start, end in spans:
        crossing[start + 1 : end + 1] = [math.inf] * (end - start)
    return crossing


def _count_bytes(node: fx.Node) -> int:
    """Return the bytes that a node has to itself."""
    value = node.meta.get("val")
    return value.nbytes if owner_of(node) is node and isinstance(value, Tensor) else 0
