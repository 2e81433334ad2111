"""Split a recorded derivative into the graph of the values and the graphs of the products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from jvpsvd.operators.derivatives.chunk_tuning import Chunks, starting_chunk
from jvpsvd.operators.derivatives.linear_map import Cost
from jvpsvd.operators.recording.constants import Constants
from jvpsvd.operators.recording.graphs import OutputGraphs, ProductGraph, Recording
from jvpsvd.operators.recording.passes.fx_tools import (
    copy_node,
    dependents,
    drop_dead_code,
    mutated_families,
    refuse_unsafe_mutation,
    stored_bytes,
    subgraph,
)


def split(recorded: fx.GraphModule, private: Sequence[Tensor] = ()) -> Recording:
    r"""Split a graph (x, v, \\*us) ↦ (values, J v, J' u) by what depends on v and on each u.

    Args:
        recorded: Returns three tuples, with one entry per output of the function.
        private: Weights that nothing but the function can change.

    Raises:
        TraceError: If an in-place operation reaches from one part into another.

    >>> import torch
    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> joint = lambda x, v, u: ((x**2,), (2 * x * v,), (2 * x * u,))
    >>> recording = split(make_fx(joint)(*torch.ones(3, 2)))
    >>> recording.at(torch.tensor([1.0, 3.0]))[0].jvp(torch.eye(2))
    tensor([[2., 0.],
            [0., 6.]])
    >>> recording.at_many(torch.ones(4, 2))[0].vjp(torch.ones(4, 3, 2), chunk=8).shape
    torch.Size([4, 3, 2])
    """
    nodes = list(recorded.graph.nodes)
    _, v, *us = (node for node in nodes if node.op == "placeholder")
    values, jvps, vjps = nodes[-1].args[0]
    roots = [v, *us]
    linear = {root: dependents(recorded.graph, root) for root in roots}
    primal = [n for n in nodes[:-1] if not any(n in linear[root] for root in roots)]
    refuse_unsafe_mutation(recorded.graph, set(primal))

    places: dict[fx.Node, int] = {}  # of what is kept at a point, in the order of its first use

    def product_graph(root: fx.Node, output: object) -> ProductGraph:
        if not isinstance(output, fx.Node) or output not in linear[root]:
            return ProductGraph(None, ())
        graph, inputs = subgraph(recorded, linear[root], root, output)
        return ProductGraph(graph, tuple(places.setdefault(node, len(places)) for node in inputs))

    jvp_graphs = [product_graph(v, image) for image in jvps]
    vjp_graphs = [product_graph(u, image) for u, image in zip(us, vjps, strict=True)]
    kept = list(places)
    constants, graph = _split_off_constants(recorded, primal, values, kept, private)
    outputs = tuple(
        _describe_output(v.meta["val"], y.meta["val"], *graphs)
        for y, *graphs in zip(values, jvp_graphs, vjp_graphs, strict=True)
    )
    return Recording(constants, graph, outputs, stored_bytes((primal[0], *values, *kept)))


def _describe_output(x: Tensor, y: Tensor, jvp: ProductGraph, vjp: ProductGraph) -> OutputGraphs:
    numbers, itemsize = x.numel() + y.numel(), x.element_size()
    cost = Cost(jvp_bytes=jvp.peak() * itemsize, vjp_bytes=vjp.peak() * itemsize)
    chunks = Chunks(
        starting_chunk(numbers, cost.jvp_bytes, x.device),
        starting_chunk(numbers, cost.vjp_bytes, x.device),
    )
    return OutputGraphs(jvp, vjp, cost, chunks)


def _split_off_constants(
    recorded: fx.GraphModule,
    primal: list[fx.Node],
    values: Any,
    kept: list[fx.Node],
    private: Sequence[Tensor],
) -> tuple[Constants, fx.GraphModule]:
    """Split the primal nodes into those that depend on weights alone, and the graph of x."""
    x = primal[0]
    varying = _find_varying(recorded.graph, x)
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
            originals[node] = copy_node(fixed, node, originals)
    fixed.output([originals[node] for node in constant])
    drop_dead_code(fixed)

    copies = {x: copy_node(graph, x, {})}
    for index, node in enumerate(constant):
        copies[node] = graph.placeholder(f"constant_{index}")
    for node in primal:
        if node in varying and node is not x:
            copies[node] = copy_node(graph, node, copies)
    graph.output(([copies[y] for y in values], [copies[node] for node in kept]))
    drop_dead_code(graph)
    return Constants(fx.GraphModule(recorded, fixed), private), fx.GraphModule(recorded, graph)


def _find_varying(graph: fx.Graph, x: fx.Node) -> set[fx.Node]:
    """Return what depends on x, and all that shares memory with what is changed by it."""
    varying, families = dependents(graph, x), mutated_families(graph)
    while True:
        changed = {node for each in families if not varying.isdisjoint(each) for node in each}
        if changed <= varying:
            return varying
        varying = dependents(graph, *varying, *changed)
