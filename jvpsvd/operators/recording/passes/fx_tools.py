"""Tools for recorded graphs: parts, sizes, in-place changes, and nodes to drop or merge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.errors import TraceError
from jvpsvd.operators.recording.sizes import call_of_same_shapes

_aten = torch.ops.aten
_ALIASES = {_aten.alias.default, _aten.detach.default, _aten.lift_fresh_copy.default}
_RESHAPES = {
    *(_aten.view.default, _aten.reshape.default),
    *(_aten.expand.default, _aten._unsafe_view.default),
}


def add_call(
    graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None
) -> fx.Node:
    """Add a call to the end of a graph, with arguments that hold no symbolic sizes.

    They are set afterwards: torch 2.13 searches what a node is made with for such sizes, and takes
    longer than to make it.

    >>> graph = fx.Graph()
    >>> add_call(graph, torch.sin, (graph.placeholder("x"),)).all_input_nodes
    [x]
    """
    node = graph.call_function(target)
    node.args = args
    if kwargs:
        node.kwargs = kwargs
    return node


def copy_node(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """Add a copy of a node, which reads copies of what it read, to the end of another graph.

    >>> graph, other = fx.Graph(), fx.Graph()
    >>> x = graph.placeholder("x")
    >>> copies = {x: copy_node(other, x, {})}
    >>> copy_node(other, graph.call_function(torch.sin, (x,)), copies).args
    (x,)
    """
    copied = graph.create_node(node.op, node.target, name=node.name, type_expr=node.type)
    copied.args = fx.node.map_arg(node.args, copies.__getitem__)
    if node.kwargs:
        copied.kwargs = fx.node.map_arg(node.kwargs, copies.__getitem__)
    copied.meta = copy(node.meta)
    return copied


def dependents(graph: fx.Graph, *roots: fx.Node) -> set[fx.Node]:
    """Return the roots and every node computed from one of them."""
    found = set(roots)
    for node in graph.nodes:
        if node.op == "call_function" and any(arg in found for arg in node.all_input_nodes):
            found.add(node)
    return found


def subgraph(
    owner: fx.GraphModule, nodes: set[fx.Node], root: fx.Node, output: fx.Node
) -> tuple[fx.GraphModule, list[fx.Node]]:
    r"""Cut out the graph from `root` to `output` through `nodes`.

    Returns the graph module, which takes (root, \\*inputs), and the nodes outside that are these
    inputs.
    """
    needed = {output}
    for node in reversed(owner.graph.nodes):
        base = mutated_base(node)
        if base is not None and not needed.isdisjoint(aliases_of(base)):
            needed.add(node)
        if node in needed and node in nodes:
            needed.update(node.all_input_nodes)
    graph = fx.Graph()
    copies = {root: graph.placeholder("direction")}
    copies[root].meta = root.meta
    inputs = [n for n in owner.graph.nodes if n in needed and n not in nodes]
    for index, node in enumerate(inputs):
        copies[node] = graph.placeholder(f"saved_{index}")
        copies[node].meta = node.meta
    for node in owner.graph.nodes:
        if node in nodes and node in needed and node is not root:
            copies[node] = copy_node(graph, node, copies)
    graph.output(copies[output])
    return fx.GraphModule(owner, graph), inputs


def shape_of(node: object) -> torch.Size | None:
    """Return the shape of the tensor that a node stands for, if it is known."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.shape if isinstance(value, Tensor) else None


def arguments(node: fx.Node) -> tuple[Any, ...]:
    """Return `node.args` as values of any type: the union of types that fx declares fits no use.

    Arguments at their defaults may be absent.
    """
    return node.args


def linear_calls(module: fx.GraphModule, linear: set[fx.Node], target: object) -> Iterator[fx.Node]:
    """Yield the nodes that are linear in a direction and call one operation.

    The graph may change meanwhile; nodes that were erased do not come.
    """
    for node in list(module.graph.nodes):
        if node in linear and node.target is target:
            yield node


def drop_unread(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Drop the nodes that nothing reads any more."""
    drop_dead_code(module.graph)
    linear.intersection_update(module.graph.nodes)


def copy_uncompiled(module: fx.GraphModule) -> fx.GraphModule:
    """Return a graph module with a copy of the graph and the same tensors, not compiled."""
    copied = fx.GraphModule(module, fx.Graph())
    for name, parameter in module.named_parameters(recurse=False):
        copied.register_parameter(name, parameter)
    for name, buffer in module.named_buffers(recurse=False):
        copied.register_buffer(name, buffer)
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        copies[node] = copy_node(copied.graph, node, copies)
    return copied


def drop_dead_code(graph: fx.Graph) -> None:
    """Drop what nothing reads, unless it changes a tensor in place or compares sizes.

    Sizes are compared although no operation reads the result: fn, or torch in a derivative, may
    have read its length. `Graph.eliminate_dead_code` checks the whole graph each time, too.
    """
    for node in reversed(graph.nodes):
        computed = node.op in ("call_function", "get_attr")
        kept = mutated_base(node) is not None or node.target is call_of_same_shapes
        if computed and not node.users and not kept:
            graph.erase_node(node)


def placeholder_for(shape: Sequence[int]) -> Tensor:
    """Return a tensor that stands for the shape of a value not yet computed."""
    return torch.empty(shape, device="meta")


def replace(node: fx.Node, other: fx.Node, linear: set[fx.Node]) -> None:
    """Use another node wherever this one is used, and erase this one."""
    node.replace_all_uses_with(other)
    erase(node, linear)


def erase(node: fx.Node, linear: set[fx.Node]) -> None:
    """Erase a node at once: as a dead user it would make its inputs seem to be used twice."""
    node.graph.erase_node(node)
    linear.discard(node)


def peak_elements(graph: fx.Graph) -> int:
    """Return the largest number of elements alive at once in the product graph of one direction.

    That includes the direction, but not what was saved at the point. Views take nothing, and a
    value is freed after the last operation that reads it or a view of it.
    """
    nodes = list(graph.nodes)
    saved = set(graph.find_nodes(op="placeholder")[1:])  # thousands, in recurrent networks
    order = {node: index for index, node in enumerate(nodes)}
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for node in nodes:
        shares = _may_alias_input(node) and bool(node.all_input_nodes)
        owner[node] = owner[node.all_input_nodes[0]] if shares else node
        ends = max((order[user] for user in node.users), default=order[node])
        last[owner[node]] = max(last.get(owner[node], 0), ends)
    alive = peak = 0
    for index, node in enumerate(nodes):
        if owner[node] is node and node not in saved:
            alive += (shape_of(node) or torch.Size([0])).numel()
        peak = max(peak, alive)
        for read in {owner[each] for each in (node, *node.all_input_nodes)}:
            if last[read] == index and read not in saved:
                alive -= (shape_of(read) or torch.Size([0])).numel()
    return peak


def stored_bytes(nodes: Iterable[fx.Node]) -> int:
    """Return the bytes of what nodes stand for: of views, of what they view, once; of weights none.

    >>> from torch.fx.experimental.proxy_tensor import make_fx
    >>> graph = make_fx(lambda x: (x.exp().t(), x.exp()[0]))(torch.ones(2, 3)).graph
    >>> stored_bytes(graph.output_node().all_input_nodes)
    48
    """
    owners = {owner_of(node) for node in nodes}
    values = (node.meta.get("val") for node in owners if node.op != "get_attr")
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def owner_of(node: fx.Node) -> fx.Node:
    """Return the node whose memory a node shares, or itself."""
    while node.all_input_nodes and _is_part_of_input(node):
        node = node.all_input_nodes[0]
    return node


def _is_part_of_input(node: fx.Node) -> bool:
    if node.target is getitem:  # of what an operation returns: parts of one tensor, or several
        return _may_alias_input(node.all_input_nodes[0])
    return _may_alias_input(node)


def remove_identities(module: fx.GraphModule) -> None:
    """Drop aliases, copies to the same dtype and layout, and reshapes to the same shape."""
    mutated = touched(module.graph)
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.args and _is_identity(node):
            source = _source(node)
            if isinstance(source, fx.Node) and node not in mutated and source not in mutated:
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)
    drop_dead_code(module.graph)


def merge_equal_nodes(module: fx.GraphModule) -> None:
    """Compute once what was recorded several times from the same inputs."""
    mutated = touched(module.graph)
    seen: dict[Any, fx.Node] = {}
    for node in list(module.graph.nodes):
        key = _identity_key(module, node, mutated)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            module.graph.erase_node(node)


def replace_fills(module: fx.GraphModule) -> None:
    """Make tensors that hold one number by `full_like`: vmap has no rule for `fill`."""
    for node in module.graph.nodes:
        if node.target is _aten.fill.Scalar:
            node.target = _aten.full_like.default
    drop_dead_code(module.graph)


def replace_copies(module: fx.GraphModule) -> None:
    """Make a tensor with the entries of another by `clone`: vmap has no rule for `copy`.

    The forward mode of an LSTM makes four of them at each step.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not _aten.copy.default:
            continue
        source, made = node.args[1], node.meta["val"]
        given = source.meta["val"]
        same = (given.dtype, given.device) == (made.dtype, made.device)
        if not same or not made.is_contiguous():
            continue
        with graph.inserting_before(node):
            if given.shape != made.shape:
                source = graph.call_function(_aten.expand.default, (source, list(made.shape)))
                source.meta["val"] = given.expand(made.shape)
        node.target, node.args = _aten.clone.default, (source,)
        node.kwargs = {"memory_format": torch.contiguous_format}
    drop_dead_code(graph)


def refuse_unsafe_mutation(graph: fx.Graph, primal: set[fx.Node]) -> None:
    """Check that no in-place operation reaches across the cut between primal and product graphs.

    The primal graph runs first and as a whole. So a product graph may read a tensor mutated there
    only if it read it after the last mutation when it was recorded.

    Raises:
        TraceError: Naming the operation that changes a tensor which the other graph reads.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        base = mutated_base(node)
        if base is None:
            continue
        family = aliases_of(base)
        readers = {u for member in family for u in member.users if u.op != "output"} - family
        inside = node in primal
        crossed = any((member in primal) != inside for member in family)
        early = inside and any(r not in primal and order[r] < order[node] for r in readers)
        if crossed or early:
            raise TraceError(
                f"the in-place operation {node.target} changes a tensor that a derivative needs; "
                "to have it recorded, work on a copy, x.clone()"
            )


def mutated_base(node: fx.Node) -> fx.Node | None:
    """Return the node that an operation changes in place, if it is one that does."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return None
    base = node.args[0]
    return base if isinstance(base, fx.Node) else None


def aliases_of(base: fx.Node) -> set[fx.Node]:
    """Return every node that may share memory with `base`: views and mutations, up and down."""
    family, fresh = {base}, [base]
    while fresh:
        node = fresh.pop()
        related: Iterable[fx.Node] = [u for u in node.users if _may_alias_input(u)]
        if _may_alias_input(node):
            related = [*related, *node.all_input_nodes[:1]]
        new = [other for other in related if other not in family]
        family.update(new)
        fresh.extend(new)
    return family


def _may_alias_input(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    return any(argument.alias_info is not None for argument in schema.arguments)


def mutated_families(graph: fx.Graph) -> list[set[fx.Node]]:
    """Return, for each in-place operation, the nodes that may share memory with what it changes."""
    families = []
    for node in graph.nodes:
        base = mutated_base(node)
        if base is not None:
            families.append({node} | aliases_of(base))
    return families


def touched(graph: fx.Graph) -> set[fx.Node]:
    """Return every node that is changed in place, or may share memory with one that is."""
    return set().union(*mutated_families(graph))


def _source(node: fx.Node) -> object:
    """Return what a copying node copies: `aten.copy(into, source)` is what `copy_` became."""
    return node.args[1] if node.target is _aten.copy.default else node.args[0]


def _is_identity(node: fx.Node) -> bool:
    source = _source(node)
    if not isinstance(source, fx.Node):
        return False
    if node.target in _ALIASES:
        return True
    before, after = source.meta.get("val"), node.meta.get("val")
    if not isinstance(before, Tensor) or not isinstance(after, Tensor):
        return False
    if node.target is _aten._to_copy.default:
        same = (before.dtype, before.device) == (after.dtype, after.device)
        return same and node.kwargs.get("memory_format") is None
    if node.target is _aten.copy.default:
        same = (before.dtype, before.device) == (after.dtype, after.device)
        return same and (before.shape, before.stride()) == (after.shape, after.stride())
    if node.target is _aten.clone.default:
        return before.stride() == after.stride() and not node.kwargs
    return node.target in _RESHAPES and before.shape == after.shape


def _identity_key(module: fx.GraphModule, node: fx.Node, mutated: set[fx.Node]) -> Any:
    if node.op == "get_attr":
        return id(getattr(module, str(node.target)))
    if node.op != "call_function" or node in mutated:
        return None
    if any(arg in mutated for arg in node.all_input_nodes):
        return None
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        return None
    return node.target, _freeze(node.args), _freeze(node.kwargs)


def _freeze(value: Any) -> Any:
    """Return a hashable stand-in for arguments; 1, 1.0 and True stay apart."""
    if isinstance(value, dict):
        return tuple((key, _freeze(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_freeze(item) for item in value)
    if isinstance(value, slice):
        return ("slice", _freeze((value.start, value.stop, value.step)))
    return type(value), value
