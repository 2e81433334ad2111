"""Channels that no direction passes at a point, left out of its products.

Where an activation is shut over a whole channel its slope is zero, and nothing that a direction has
in that channel gets on. The convolution that makes the channel, the one that reads it and all
between them can do without it. At a photo that holds for many of the widest channels of an image
network's last blocks. What is left out are zeros (or the NaN that infinite weights make of them):
products stay the same but for the order of sums.

Which operations share their channels is read off the recorded graph, once (`chains`); which
channels are shut, off the slopes at each point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

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
        shut = torch.zeros(self.size, dtype=torch.bool, device="cpu")
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
