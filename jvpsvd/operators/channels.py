"""Channels that no direction passes at a point, left out of its products.

Where an activation is shut over a whole channel its slope is zero, and nothing that a direction has
in that channel gets on. The convolution that makes the channel, the one that reads it and all
between them can do without it. At a photo a quarter to half of the widest channels in the last
blocks of EfficientNet-Lite0 are shut. What is left out are zeros (or the NaN that infinite weights
make of them): products stay the same but for the order of sums.

Which operations share their channels is read off the recorded graph, once; which channels are shut,
off the slopes at each point.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.operators.graphs import arguments, shape_of

_aten = torch.ops.aten
_MULTIPLICATIONS = (_aten.mul.Tensor, _aten.mul_.Tensor)
_ENTRYWISE = (_aten.neg.default, _aten.clone.default)
# Kernels take channels in multiples; where fewer than this share would go, nothing is gained.
_MULTIPLE, _LEAST_SHARE = 16, 1 / 16


@dataclass(frozen=True)
class Use:
    """An input of a graph that has the channels of a chain, and in which dimension."""

    place: int
    dim: int


class Selections:
    """What was selected at one point, once for all graphs that read the same tensors."""

    def __init__(self) -> None:
        # With the tensors that were selected from, so that no other can have their identity.
        self._shut: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._parts: dict[tuple[int, int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def shut(self, factor: Tensor, dim: int) -> Tensor:
        """Return which channels of a factor are zero, on the CPU."""
        key = id(factor), dim
        if key not in self._shut:
            entries = (factor != 0).movedim(dim, 0).reshape(factor.shape[dim], -1)
            self._shut[key] = factor, ~entries.any(1).cpu()
        return self._shut[key][1]

    def part(self, tensor: Tensor, dim: int, kept: tuple[int, ...]) -> Tensor:
        """Return some channels of a tensor, laid out as it is."""
        key = id(tensor), dim, kept
        if key not in self._parts:
            index = torch.tensor(kept, device=tensor.device)
            order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
            part = tensor.permute(order).index_select(order.index(dim), index)
            back = [order.index(each) for each in range(tensor.ndim)]
            self._parts[key] = tensor, part.permute(back)
        return self._parts[key][1]


@dataclass(frozen=True)
class Chain:
    """The channels from a convolution that makes them to the one that reads them."""

    size: int
    uses: tuple[Use, ...]
    """All tensors that have them: kernels and factors."""
    factors: tuple[Use, ...]
    """Those that directions are multiplied by, of which a channel of zeros is shut."""
    counts: tuple[int, ...]
    """Places of the numbers of groups of the depthwise convolutions on the way."""

    def kept(self, inputs: Sequence[Any], selections: Selections) -> tuple[int, ...] | None:
        """Return the channels to keep, in their order; None for all of them."""
        shut = torch.zeros(self.size, dtype=torch.bool)
        for use in self.factors:
            shut |= selections.shut(inputs[use.place], use.dim)
        return _worth_keeping(shut)


@dataclass(frozen=True)
class ChannelGraph:
    """A linear graph that takes fewer channels in its chains where these are shut."""

    graph: fx.GraphModule
    sources: tuple[int | None, ...]
    """Which input of the original is each of its own; None: a number of groups."""
    chains: tuple[Chain, ...]

    def inputs(self, originals: Sequence[Tensor], selections: Selections) -> tuple[Any, ...] | None:
        """Return its inputs at a point, from those of the original; None if all channels stay."""
        found: list[Any] = [0 if i is None else originals[i] for i in self.sources]
        fewer = False
        for chain in self.chains:
            kept = chain.kept(found, selections)
            fewer = fewer or kept is not None
            for place in chain.counts:
                found[place] = chain.size if kept is None else len(kept)
            if kept is not None:
                for use in chain.uses:
                    found[use.place] = selections.part(found[use.place], use.dim, kept)
        return tuple(found) if fewer else None

    def mostly_shut(self, originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return inputs of the original of which three in four channels are shut, to try it on."""
        found = list(originals)
        for chain in self.chains:
            closed = [channel for channel in range(chain.size) if channel % 4]
            for use in chain.factors:
                source = self.sources[use.place]
                if source is not None:
                    index = torch.tensor(closed, device=found[source].device)
                    found[source] = found[source].index_fill(use.dim, index, 0.0)
        return tuple(found)


def _worth_keeping(shut: Tensor) -> tuple[int, ...] | None:
    """Return the open channels and as many of the others as fill a multiple; None if too many."""
    size = len(shut)
    count = max(_MULTIPLE, -(-(size - int(shut.sum())) // _MULTIPLE) * _MULTIPLE)
    if size - count < _LEAST_SHARE * size:
        return None
    return tuple(sorted(shut.to(torch.uint8).argsort(stable=True)[:count].tolist()))


def channel_graph(module: fx.GraphModule) -> ChannelGraph | None:
    """Return what takes fewer channels than a linear graph (direction, saved…), if it has chains.

    Its chains run from one convolution to the next over what treats every channel by itself:
    factors, depthwise convolutions, zeros added or cut off, nothing that branches.
    """
    graph = copy.deepcopy(module.graph)
    saved = graph.find_nodes(op="placeholder")[1:]
    known = set(saved)
    found = [chain for node in graph.nodes if (chain := _chain_from(node, known)) is not None]
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
    place = {node: index for index, node in enumerate(sources)}
    chains = tuple(
        Chain(
            chain.size,
            tuple(Use(place[inputs[argument]], dim) for argument, dim in chain.uses),
            tuple(Use(place[inputs[argument]], dim) for argument, dim in chain.factors),
            tuple(place[inputs[argument]] for argument in chain.counts),
        )
        for chain in found
    )
    return ChannelGraph(fx.GraphModule(module, graph), tuple(sources.values()), chains)


@dataclass(frozen=True)
class _Argument:
    """A place among the arguments of an operation."""

    node: fx.Node
    position: int


@dataclass
class _Draft:
    """A chain on the way to its end, by the arguments that have its channels."""

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
            moved = _moved(user, dim)
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
        chain: To be added to.
        here: The directions.
        user: What they go into.
        dim: Where their channels are, from the end.
        saved: What is known at the point.
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


def _moved(node: fx.Node, dim: int) -> int | None:
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
        return graph.placeholder(f"narrowed_{len(placeholders)}")
