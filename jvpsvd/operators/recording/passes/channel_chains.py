"""Find the operations of a product graph that share their channels.

They lie between a convolution that makes channels and one that reads them, and treat every channel
by itself: factors, depthwise convolutions, zeros added or cut off. Where nothing branches, all of
them can leave out a channel that one of the factors makes inactive.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import arguments, shape_of
from jvpsvd.operators.recording.passes.inactive_channels import Chain, ChannelGraph, Use

_aten = torch.ops.aten
_MULTIPLICATIONS = (_aten.mul.Tensor, _aten.mul_.Tensor)
_ENTRYWISE = (_aten.neg.default, _aten.clone.default)


def channel_graph(module: fx.GraphModule) -> ChannelGraph | None:
    """Return a product graph (direction, saved…) as one that may take fewer channels, or None.

    Args:
        module: The graph, with the shapes of the saved values.
    """
    if not module.graph.find_nodes(op="call_function", target=_aten.convolution.default):
        return None
    graph = copy.deepcopy(module.graph)
    saved = graph.find_nodes(op="placeholder")[1:]
    of_point = set(saved)
    found = [chain for node in graph.nodes if (chain := _chain_from(node, of_point)) is not None]
    if not found:
        return None
    sources: dict[fx.Node, int | None] = {node: index for index, node in enumerate(saved)}
    inputs: dict[_Argument, fx.Node] = {}
    for chain in found:
        for each in [*(argument for argument, _ in chain.uses), *chain.counts]:
            if each not in inputs:
                original = each.node.args[each.position]
                new = _another_placeholder(graph)
                sources[new] = sources[original] if isinstance(original, fx.Node) else None
                each.node.update_arg(each.position, new)
                inputs[each] = new
    for node in [node for node in sources if not node.users]:
        graph.erase_node(node)
        del sources[node]
    index_of = {node: index for index, node in enumerate(sources)}
    chains = tuple(
        Chain(
            chain.size,
            tuple(Use(index_of[inputs[argument]], dim) for argument, dim in chain.uses),
            tuple(Use(index_of[inputs[argument]], dim) for argument, dim in chain.factors),
            tuple(index_of[inputs[argument]] for argument in chain.counts),
        )
        for chain in found
    )
    return ChannelGraph(fx.GraphModule(module, graph), tuple(sources.values()), chains)


@dataclass(frozen=True)
class _Argument:
    """One of the arguments of an operation, by its position."""

    node: fx.Node
    position: int


@dataclass
class _Draft:
    """A chain that is not complete yet, by the arguments that have its channels."""

    size: int
    uses: list[tuple[_Argument, int]]
    factors: list[tuple[_Argument, int]] = field(default_factory=list)
    counts: list[_Argument] = field(default_factory=list)


@dataclass(frozen=True)
class _Convolution:
    """A convolution of directions with a saved kernel (out, in / groups, …), or its transposed."""

    node: fx.Node
    kernel: torch.Size
    groups: int
    transposed: bool

    @staticmethod
    def of(node: fx.Node, saved: set[fx.Node]) -> _Convolution | None:
        """Return how a node convolves; None if it does not, or in another way."""
        if node.target is not _aten.convolution.default:
            return None
        _, weight, bias, *_, transposed, _, groups = arguments(node)
        shape = shape_of(weight)
        if shape is None or weight not in saved or bias is not None:
            return None
        return _Convolution(node, shape, groups, transposed)

    @property
    def read(self) -> int:
        """Channels that it reads."""
        return self.kernel[0] if self.transposed else self.kernel[1] * self.groups

    @property
    def made(self) -> int:
        """Channels that it makes."""
        return self.kernel[1] * self.groups if self.transposed else self.kernel[0]

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.groups == self.kernel[0] and self.kernel[1] == 1

    @property
    def count(self) -> _Argument:
        """Return where its number of groups stands."""
        return _Argument(self.node, 8)

    def use(self, *, making: bool) -> tuple[_Argument, int]:
        """Return where the kernel has the channels made, or those read; if depthwise, both."""
        first = self.groups != 1 or making != self.transposed
        return _Argument(self.node, 1), 0 if first else 1


def _chain_from(maker: fx.Node, saved: set[fx.Node]) -> _Draft | None:
    """Return the chain that begins at a convolution of all channels, if it ends at another."""
    first = _Convolution.of(maker, saved)
    if first is None or first.groups != 1:
        return None
    chain = _Draft(first.made, [first.use(making=True)])
    here, dim = maker, 1
    while len(here.users) == 1:
        (user,) = here.users
        next_one = _Convolution.of(user, saved)
        if next_one is not None:
            if user.args[0] is not here or dim != 1 or next_one.read != chain.size:
                return None
            if next_one.groups == 1:
                chain.uses.append(next_one.use(making=False))
                return chain if chain.factors else None
            if not next_one.is_depthwise:
                return None
            chain.uses.append(next_one.use(making=True))
            chain.counts.append(next_one.count)
        elif not _note_factor(chain, here, user, dim - len(first.kernel), saved):
            moved = _follow_channels(user, dim)
            if moved is None:
                return None
            dim = moved
        here = user
    return None


def _note_factor(
    chain: _Draft, here: fx.Node, user: fx.Node, dim: int, saved: set[fx.Node]
) -> bool:
    """Note what directions are multiplied by; return whether that is what the user does.

    Args:
        chain: The chain to which the factor is added.
        here: The directions.
        user: The operation that reads them.
        dim: Where their channels are, from the end.
        saved: The values that depend on the point alone.
    """
    if user.target not in _MULTIPLICATIONS or user.kwargs:
        return False
    position = 1 if user.args[0] is here else 0
    factor = user.args[position]
    shape = shape_of(factor)
    if factor not in saved or shape is None:
        return False
    if len(shape) >= -dim and shape[dim] != 1:
        argument = (_Argument(user, position), len(shape) + dim)
        chain.uses.append(argument)
        chain.factors.append(argument)
    return True


def _follow_channels(node: fx.Node, dim: int) -> int | None:
    """Return where channels are after an operation on each by itself; None after any other."""
    if node.target is _aten.permute.default:
        order = arguments(node)[1]
        return [each % len(order) for each in order].index(dim)
    if node.target is _aten.constant_pad_nd.default:
        amounts, shape = arguments(node)[1], shape_of(node)
        if shape is None:
            return None
        ends = 2 * (len(shape) - 1 - dim)  # torch has (left, right) from the last dimension on
        return dim if not any(amounts[ends : ends + 2]) else None
    return dim if node.target in _ENTRYWISE else None


def _another_placeholder(graph: fx.Graph) -> fx.Node:
    placeholders = graph.find_nodes(op="placeholder")
    with graph.inserting_after(placeholders[-1]):
        return graph.placeholder(f"reduced_{len(placeholders)}")
