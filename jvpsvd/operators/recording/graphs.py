"""A recorded derivative, split into what depends on the point and what is linear in a direction."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import vmap

from jvpsvd.operators.derivatives.batched_map import BatchedMap, Side, replayed
from jvpsvd.operators.derivatives.chunk_tuning import starting_chunk
from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.derivatives.linear_map import Cost, LinearMap, unchanged, without_grad
from jvpsvd.operators.function.evaluate import close
from jvpsvd.operators.recording.constants import Constants
from jvpsvd.operators.recording.passes.channel_chains import channel_graph
from jvpsvd.operators.recording.passes.fx_tools import (
    dependents,
    mutated_families,
    peak_elements,
    refuse_unsafe_mutation,
    subgraph,
)
from jvpsvd.operators.recording.passes.inactive_channels import ChannelGraph, Selections

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearGraph:
    """One linear graph and where its inputs stand among the values kept by the primal graph."""

    graph: fx.GraphModule | None
    """None of an output that does not depend on x."""
    saved: tuple[int, ...]
    narrow: ChannelGraph | None = None
    """The same without the channels that are shut at a point; None where there are none to see."""

    def at(
        self,
        kept: Sequence[Tensor],
        zeros: Tensor,
        weights: Sequence[Tensor],
        selections: Selections,
    ) -> Callable[[Tensor], Tensor]:
        """Return the batched map of this side at one point, refused once a weight has changed."""
        graph, narrow = self.graph, self.narrow
        if graph is None:
            return lambda block: zeros.expand(block.shape[0], *zeros.shape)
        saved = tuple(kept[i] for i in self.saved)
        check = unchanged((*saved, *weights))

        @cache
        def mapped() -> Callable[[Tensor], Tensor]:
            fewer = None if narrow is None else narrow.inputs(saved, selections)
            if narrow is None or fewer is None:
                return _over_directions(graph, saved)
            return _over_directions(narrow.graph, fewer)

        def apply(block: Tensor) -> Tensor:
            check()
            return mapped()(block)  # the first product selects channels

        return without_grad(apply)

    def with_channels(self, kept: Sequence[Tensor], along: Tensor) -> LinearGraph:
        """Return this side able to leave channels out, if that gives the same where many are shut.

        Args:
            kept: At any point.
            along: The direction to compare on.
        """
        graph = self.graph
        narrow = None if graph is None else channel_graph(graph)
        if graph is None or narrow is None:
            return self
        shut = narrow.mostly_shut([kept[i] for i in self.saved])
        try:
            fewer = narrow.inputs(shut, Selections())
            if fewer is None:
                return self
            part = _over_directions(narrow.graph, fewer)(along[None])
            whole = _over_directions(graph, shut)(along[None])
        except Exception as error:  # a layout that some operation cannot take
            logger.info("keeping channels that are shut: %s", error)
            return self
        return replace(self, narrow=narrow) if close(part, whole) else self

    def at_many(
        self,
        kept: Sequence[Tensor],
        varies: Sequence[bool],
        zeros: Tensor,
        weights: Sequence[Tensor],
    ) -> Side:
        """Return this side at many points; what varies over them has a dimension for them."""
        if self.graph is None:
            return replayed(lambda direction: zeros, (), ())
        inputs = tuple(kept[i] for i in self.saved)
        return replayed(self.graph, inputs, tuple(varies[i] for i in self.saved), weights)

    def peak(self) -> int:
        """Return how many elements one vector takes at most, alive at once on its way."""
        return 0 if self.graph is None else peak_elements(self.graph.graph)

    def widest(self) -> int:
        """Return how many elements the largest tensor has that one vector becomes on its way."""
        if self.graph is None:
            return 0
        _, *saved = self.graph.graph.find_nodes(op="placeholder")
        passed = (node for node in self.graph.graph.nodes if node not in saved)
        values = (node.meta.get("val") for node in passed)
        return max((v.numel() for v in values if isinstance(v, Tensor)), default=0)


def _over_directions(
    graph: Callable[..., Tensor], inputs: Sequence[Any]
) -> Callable[[Tensor], Tensor]:
    """Return a linear graph of one direction as a map of a block of them."""
    # Not as arguments: torch looks through the tree of these at every call.
    return vmap(lambda direction: graph(direction, *inputs))


@dataclass(frozen=True)
class Recording:
    """The primal graph of a function with several outputs, and two linear graphs per output."""

    constants: Constants
    primal: fx.GraphModule
    r"""(x, \*constants) ↦ (values of the outputs, values that the linear graphs need)."""
    tangents: tuple[LinearGraph, ...]
    cotangents: tuple[LinearGraph, ...]
    costs: tuple[Cost, ...]

    def at(self, x: Tensor) -> tuple[LinearMap, ...]:
        """Return the derivative of each output at x, which is kept."""
        with torch.no_grad():
            values, kept = self.primal(x, *self.constants.values())
        weights, selections = self.constants.weights, Selections()
        return tuple(
            LinearMap(
                point=x,
                value=value,
                push=tangent.at(kept, torch.zeros_like(value), weights, selections),
                pull=cotangent.at(kept, torch.zeros_like(x), weights, selections),
                cost=cost,
                at=lambda z, index=index: self.at(z)[index],  # type: ignore[misc]
            )
            for index, (value, tangent, cotangent, cost) in enumerate(
                zip(values, self.tangents, self.cotangents, self.costs, strict=True)
            )
        )

    def with_channels(self, x: Tensor) -> Recording:
        """Return this recording with sides that leave out channels that are shut at a point."""
        with torch.no_grad():
            values, kept = self.primal(x, *self.constants.values())
            v = direction(x)
            return replace(
                self,
                tangents=tuple(side.with_channels(kept, v) for side in self.tangents),
                cotangents=tuple(
                    side.with_channels(kept, direction(value))
                    for side, value in zip(self.cotangents, values, strict=True)
                ),
            )

    def at_many(self, X: Tensor) -> tuple[BatchedMap, ...]:
        """Return the derivative of each output at the points X[0], X[1], …, which are kept.

        Whatever `torch.func.vmap` cannot do is raised, here or by the maps.
        """
        graph = self.primal.graph
        output: Any = graph.output_node().args[0]
        x, *_ = graph.find_nodes(op="placeholder")
        varying = dependents(graph, x)
        # A dimension for the points in what was taken not to depend on them is an error of vmap.
        dims: Any = tuple([0 if node in varying else None for node in nodes] for nodes in output)
        with torch.no_grad():
            constants = self.constants.values()
            over_points = vmap(self.primal, (0, *(None for _ in constants)), out_dims=dims)
            values, kept = over_points(X, *constants)
        varies = [dim == 0 for dim in dims[1]]
        maps = []
        for index, dim in enumerate(dims[0]):
            value = (
                values[index] if dim == 0 else values[index].expand(len(X), *values[index].shape)
            )
            weights = self.constants.weights
            zeros = torch.zeros_like(value[0]), torch.zeros_like(X[0])
            forward = self.tangents[index].at_many(kept, varies, zeros[0], weights)
            reverse = self.cotangents[index].at_many(kept, varies, zeros[1], weights)
            widest = max(self.tangents[index].widest(), self.cotangents[index].widest(), 1)
            elsewhere = partial(self._at_many_of, index)
            maps.append(BatchedMap(X, value, forward, reverse, widest, elsewhere))
        return tuple(maps)

    def _at_many_of(self, index: int, X: Tensor) -> BatchedMap:
        return self.at_many(X)[index]


def split(recorded: fx.GraphModule, depths: int) -> Recording:
    r"""Split a graph (x, v, \\*us) ↦ (values, J v, J' u) by what depends on v and on each u.

    Args:
        recorded: Returns three tuples, with one entry per output of the function.
        depths: How many outputs it has.

    Raises:
        TraceError: If an in-place operation reaches from one part into another.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> joint = lambda x, v, u: ((x**2,), (2 * x * v,), (2 * x * u,))
    >>> recording = split(make_fx(joint)(*torch.ones(3, 2)), depths=1)
    >>> recording.at(torch.tensor([1.0, 3.0]))[0].push(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    >>> recording.at_many(torch.ones(4, 2))[0].pull(torch.ones(4, 3, 2), chunk=8).shape
    torch.Size([4, 3, 2])
    """
    nodes = list(recorded.graph.nodes)
    _, v, *us = (node for node in nodes if node.op == "placeholder")
    values, tangents, cotangents = nodes[-1].args[0]
    roots = [v, *us]
    linear = {root: dependents(recorded.graph, root) for root in roots}
    primal = [n for n in nodes[:-1] if not any(n in linear[root] for root in roots)]
    refuse_unsafe_mutation(recorded.graph, set(primal))

    kept: list[fx.Node] = []

    def side(root: fx.Node, output: object) -> LinearGraph:
        if not isinstance(output, fx.Node) or output not in linear[root]:
            return LinearGraph(None, ())
        graph, inputs = subgraph(recorded, linear[root], root, output)
        for node in inputs:
            if node not in kept:
                kept.append(node)
        return LinearGraph(graph, tuple(kept.index(node) for node in inputs))

    tangent_sides = tuple(side(v, tangents[i]) for i in range(depths))
    cotangent_sides = tuple(side(us[i], cotangents[i]) for i in range(depths))

    constants, graph = _without_constants(recorded, primal, values, kept)
    costs = tuple(
        _cost(v.meta["val"], y.meta["val"], *sides)
        for y, *sides in zip(values, tangent_sides, cotangent_sides, strict=True)
    )
    return Recording(constants, graph, tangent_sides, cotangent_sides, costs)


def _cost(x: Tensor, y: Tensor, forward: LinearGraph, reverse: LinearGraph) -> Cost:
    numbers, itemsize = x.numel() + y.numel(), x.element_size()
    pushed, pulled = forward.peak() * itemsize, reverse.peak() * itemsize
    return Cost(
        forward_bytes=pushed,
        reverse_bytes=pulled,
        forward=starting_chunk(numbers, pushed, x.device),
        reverse=starting_chunk(numbers, pulled, x.device),
    )


def _without_constants(
    recorded: fx.GraphModule, primal: list[fx.Node], values: Any, kept: list[fx.Node]
) -> tuple[Constants, fx.GraphModule]:
    """Split the primal nodes into those worked out from weights alone, and the graph of x."""
    x = primal[0]
    varying = dependents(recorded.graph, x)
    for family in mutated_families(recorded.graph):
        if not varying.isdisjoint(family):
            for node in family:
                varying |= dependents(recorded.graph, node)
    wanted = {*values, *kept}
    constant = [
        node
        for node in primal
        if node not in varying and (node in wanted or not varying.isdisjoint(node.users))
    ]
    fixed, graph = fx.Graph(), fx.Graph()
    originals: dict[fx.Node, fx.Node] = {}
    for node in primal:
        if node not in varying:
            originals[node] = fixed.node_copy(node, originals.__getitem__)
    fixed.output([originals[node] for node in constant])
    fixed.eliminate_dead_code()

    copies = {x: graph.node_copy(x)}
    for index, node in enumerate(constant):
        copies[node] = graph.placeholder(f"constant_{index}")
    for node in primal:
        if node in varying and node is not x:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(([copies[y] for y in values], [copies[node] for node in kept]))
    graph.eliminate_dead_code()
    return Constants(fx.GraphModule(recorded, fixed)), fx.GraphModule(recorded, graph)
