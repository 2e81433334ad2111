"""Leave channels that are inactive at a point out of its products.

A channel is inactive where the slope of its activation is zero in all entries: a direction ends
there. The convolution that makes the channel, the one that reads it and all operations between
them can leave it out. At a photo many of the widest channels in the last blocks of an image network
are inactive. Only zeros are left out (or the NaN that infinite weights make of them), so that
products change by the order of sums alone.

`channel_chains` finds in the recorded graph, once, which operations share their channels. The
slopes at each point show which channels are inactive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from jvpsvd.operators.blocks import select_in_layout

# Kernels take channels in multiples; where fewer than this share would go, nothing is gained.
_MULTIPLE, _LEAST_SHARE = 16, 1 / 16


@dataclass(frozen=True)
class Use:
    """An input of a graph that has the channels of a chain, and in which dimension."""

    index: int
    dim: int


class ChannelCache:
    """Inactive channels and selected tensors at one point, for all graphs that share tensors."""

    def __init__(self) -> None:
        # With the tensors that were selected from, so that no other can have their identity.
        self._inactive: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._selected: dict[tuple[int, int, tuple[int, ...]], tuple[Tensor, Tensor]] = {}

    def inactive(self, factor: Tensor, dim: int) -> Tensor:
        """Return which channels of a factor are zero, on the CPU."""
        key = id(factor), dim
        if key not in self._inactive:
            entries = (factor != 0).movedim(dim, 0).reshape(factor.shape[dim], -1)
            self._inactive[key] = factor, ~entries.any(1).cpu()
        return self._inactive[key][1]

    def select(self, tensor: Tensor, dim: int, kept: tuple[int, ...]) -> Tensor:
        """Return some channels of a tensor, laid out as it is."""
        key = id(tensor), dim, kept
        if key not in self._selected:
            index = torch.tensor(kept, device=tensor.device)
            self._selected[key] = tensor, select_in_layout(tensor, dim, index)
        return self._selected[key][1]


@dataclass(frozen=True)
class Chain:
    """The channels from a convolution that makes them to the one that reads them."""

    size: int
    uses: tuple[Use, ...]
    """All tensors that have them: kernels and factors."""
    factors: tuple[Use, ...]
    """Those that multiply directions; a channel in which one is zero is inactive."""
    counts: tuple[int, ...]
    """Indices of the numbers of groups of the depthwise convolutions between the two."""

    def kept(self, inputs: Sequence[Any], cache: ChannelCache) -> tuple[int, ...] | None:
        """Return the channels to keep, in their order; None for all of them."""
        inactive = torch.zeros(self.size, dtype=torch.bool, device="cpu")
        for use in self.factors:
            inactive |= cache.inactive(inputs[use.index], use.dim)
        return _choose_kept(inactive)


@dataclass(frozen=True)
class ChannelGraph:
    """A product graph that takes fewer channels in its chains where some are inactive."""

    graph: fx.GraphModule
    sources: tuple[int | None, ...]
    """For each input the index of the same input of the original; None for a number of groups."""
    chains: tuple[Chain, ...]

    def inputs(self, originals: Sequence[Tensor], cache: ChannelCache) -> tuple[Any, ...] | None:
        """Return its inputs at a point, from those of the original; None if all channels stay."""
        found: list[Any] = [0 if i is None else originals[i] for i in self.sources]
        fewer = False
        for chain in self.chains:
            kept = chain.kept(found, cache)
            fewer = fewer or kept is not None
            for index in chain.counts:
                found[index] = chain.size if kept is None else len(kept)
            if kept is not None:
                for use in chain.uses:
                    found[use.index] = cache.select(found[use.index], use.dim, kept)
        return tuple(found) if fewer else None

    def mostly_inactive(self, originals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return inputs of the original with three in four channels inactive, for a comparison."""
        found = list(originals)
        for chain in self.chains:
            inactive = [channel for channel in range(chain.size) if channel % 4]
            for use in chain.factors:
                source = self.sources[use.index]
                if source is not None:
                    index = torch.tensor(inactive, device=found[source].device)
                    found[source] = found[source].index_fill(use.dim, index, 0.0)
        return tuple(found)


def _choose_kept(inactive: Tensor) -> tuple[int, ...] | None:
    """Return the active channels and as many others as fill a multiple; None if too many."""
    size = len(inactive)
    count = max(_MULTIPLE, -(-(size - int(inactive.sum())) // _MULTIPLE) * _MULTIPLE)
    if size - count < _LEAST_SHARE * size:
        return None
    return tuple(sorted(inactive.to(torch.uint8).argsort(stable=True)[:count].tolist()))
