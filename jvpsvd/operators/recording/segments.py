"""A product of one direction that is computed segment by segment, with values computed again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, fx

from jvpsvd.errors import TraceError
from jvpsvd.operators.derivatives.linear_map import disable_grad, make_change_check
from jvpsvd.operators.recording.graphs import ProductGraph, over_directions
from jvpsvd.operators.recording.passes.fx_tools import copy_node
from jvpsvd.operators.recording.passes.inactive_channels import ChannelCache, ChannelGraph


@dataclass(frozen=True)
class Segment:
    """A part of a product, and how the values that it reads are computed again."""

    values: fx.GraphModule
    r"""(\*checkpoints) ↦ values of the point."""
    checkpoints: tuple[int, ...]
    """Indices of these among what is kept."""
    held: tuple[int, ...]
    """Indices of what the product reads of what is kept."""
    product: fx.GraphModule
    r"""(\*carried, \*values, \*held) ↦ results, of one direction."""
    carried: tuple[str, ...]
    """What earlier segments hand on to it."""
    results: tuple[str, ...]
    """What it hands on."""


@dataclass(frozen=True)
class SegmentedProduct:
    """The product J v or J' u, segment by segment."""

    whole: ProductGraph
    """The same in one graph, of values that are all kept."""
    segments: tuple[Segment, ...]
    direction: str
    output: str

    @property
    def graph(self) -> fx.GraphModule | None:
        """None of an output that does not depend on x."""
        return self.whole.graph

    def at(
        self,
        kept: Sequence[Tensor],
        zeros: Tensor,
        check_weights: Callable[[], None],
        channels: ChannelCache,
    ) -> Callable[[Tensor], Tensor]:
        """Return the product of a block at one point, refused once a weight has changed."""
        if self.graph is None:
            return self.whole.at(kept, zeros, check_weights, channels)
        read = {i for part in self.segments for i in (*part.checkpoints, *part.held)}
        check = make_change_check([kept[i] for i in sorted(read)])

        def product(block: Tensor) -> Tensor:
            check()
            check_weights()
            return self._multiply(kept, block)

        return disable_grad(product)

    def _multiply(self, kept: Sequence[Tensor], block: Tensor) -> Tensor:
        carried = {self.direction: block}
        for index, part in enumerate(self.segments):
            values = part.values(*(kept[i] for i in part.checkpoints))
            fixed = (*values, *(kept[i] for i in part.held))
            vectors = [carried[name] for name in part.carried]
            results = over_directions(part.product, fixed)(*vectors)
            carried |= dict(zip(part.results, results, strict=True))
            later = {name for other in self.segments[index + 1 :] for name in other.carried}
            carried = {n: v for n, v in carried.items() if n in later or n == self.output}
        return carried[self.output]

    def at_many(
        self,
        kept: Sequence[Tensor],
        varies: Sequence[bool],
        zeros: Tensor,
        check_weights: Callable[[], None],
    ) -> NoReturn:
        """Raise `TraceError`: the values of many points are computed again one by one."""
        raise TraceError("values are computed again for one point at a time")

    def channel_graph(self) -> ChannelGraph | None:
        """Return None: which channels are inactive is not known before they are computed."""
        return None

    def reduce_channels(
        self, reduced: ChannelGraph | None, kept: Sequence[Tensor], along: Tensor
    ) -> SegmentedProduct:
        """Return this product."""
        return self

    def peak(self) -> int:
        """Return how many elements one vector takes at most, alive at once on its way."""
        return self.whole.peak()

    def widest(self) -> int:
        """Return how many elements the largest tensor has that one vector becomes on its way."""
        return self.whole.widest()


@dataclass(frozen=True)
class Part:
    """The nodes of a product graph that belong to one segment of the values."""

    segment: int
    nodes: tuple[fx.Node, ...]
    carried: tuple[fx.Node, ...]
    results: tuple[fx.Node, ...]
    saved: tuple[fx.Node, ...]
    """Placeholders of values that it reads."""


def split_product(
    graph: fx.Graph, segment_of: dict[fx.Node, int], count: int, *, forward: bool
) -> list[Part]:
    """Split the graph of a product by the segments of the values that it reads.

    Args:
        graph: Of one direction.
        segment_of: The segments of the placeholders of values; of those that are not computed
            again, none.
        count: The number of segments.
        forward: Whether the product goes from the first segment to the last, as J v does.
    """
    direction, *_ = graph.find_nodes(op="placeholder")
    latest = max if forward else min
    found = {direction: 0 if forward else count - 1}
    by_segment: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_function":
            inputs = node.all_input_nodes
            segments = [found[i] for i in inputs if i in found]
            found[node] = latest([*segments, *(segment_of[i] for i in inputs if i in segment_of)])
            by_segment.setdefault(found[node], []).append(node)
    parts = []
    for segment in sorted(by_segment, reverse=not forward):
        nodes = dict.fromkeys(by_segment[segment])
        inputs = dict.fromkeys(i for node in nodes for i in node.all_input_nodes)
        parts.append(
            Part(
                segment,
                tuple(nodes),
                carried=tuple(i for i in inputs if i in found and i not in nodes),
                results=tuple(n for n in nodes if not nodes.keys() >= n.users.keys()),
                saved=tuple(i for i in inputs if i not in found),
            )
        )
    return parts


def part_graph(owner: fx.GraphModule, part: Part, values: Sequence[fx.Node]) -> fx.GraphModule:
    r"""Return the graph (\\*carried, \\*values) ↦ results of a part."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in (*part.carried, *values)}
    for node in part.nodes:
        copies[node] = copy_node(graph, node, copies)
    graph.output(tuple(copies[node] for node in part.results))
    return fx.GraphModule(owner, graph)
