"""Compute transposed convolutions to few channels as plain ones, by their polyphase decomposition.

The reverse pass of the first layer of an image network is a transposed convolution to the three
channels of the image, for which torch has no good kernels. In each dimension the entries s·q + r of
its result, those of phase r, are a plain convolution with every s-th row of the kernel:

    y[s q + r − p] = Σ_t u[q − t] W[r + s t].

One convolution of stride 1 makes the phases of all dimensions as further channels, which are then
interleaved. The result is exact up to the order of sums; kernels are cut up once for all points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from jvpsvd.operators.recording.passes.fx_tools import (
    arguments,
    linear_calls,
    placeholder_for,
    replace,
    shape_of,
)

_aten = torch.ops.aten
# Transposed convolutions to images: colours, and one more.
_IMAGE_CHANNELS = 4


def decompose_by_phases(module: fx.GraphModule, linear: set[fx.Node]) -> None:
    """Replace strided transposed convolutions to few channels by plain ones.

    Args:
        module: A recorded derivative.
        linear: Its nodes that are linear in one of the directions; updated.
    """
    for node in linear_calls(module, linear, _aten.convolution.default):
        _decompose(module.graph, node, linear)


def _decompose(graph: fx.Graph, node: fx.Node, linear: set[fx.Node]) -> None:
    if not _can_decompose(node, linear):
        return
    u, weight, _, stride, padding, *_ = arguments(node)
    read, kernel, made = (shape_of(each) or torch.Size() for each in (u, weight, node))
    dims = range(len(stride))
    taps = [-(-size // step) for size, step in zip(kernel[2:], stride, strict=True)]
    positions = [size + tap - 1 for size, tap in zip(read[2:], taps, strict=True)]
    whole = [q * step for q, step in zip(positions, stride, strict=True)]
    apart = [read[0], *stride, kernel[1], *positions]
    # (N, s₁, s₂, C, Q₁, Q₂) to (N, C, Q₁, s₁, Q₂, s₂)
    first = len(dims) + 2
    order = [0, first - 1, *(each for d in dims for each in (first + d, 1 + d))]
    ends = [(-p, size + p - full) for size, p, full in zip(made[2:], padding, whole, strict=True)]

    def call(target: Any, *args: Any, shape: Sequence[int]) -> fx.Node:
        result = graph.call_function(target, args)
        result.meta["val"] = placeholder_for(shape)
        linear.add(result)
        return result

    with graph.inserting_before(node):
        cut = _cut_up(graph, weight, kernel, stride, taps)
        before, ones, zeros = [tap - 1 for tap in taps], [1] * len(dims), [0] * len(dims)
        image = call(
            _aten.convolution.default,
            *(u, cut, None, ones, before, ones, False, zeros, 1),
            shape=[read[0], math.prod(stride) * kernel[1], *positions],
        )
        image = call(_aten.reshape.default, image, apart, shape=apart)
        image = call(_aten.permute.default, image, order, shape=[apart[each] for each in order])
        together = [read[0], kernel[1], *whole]
        image = call(_aten.reshape.default, image, together, shape=together)
        image = call(_aten.constant_pad_nd.default, image, _amounts(ends), shape=made)
    replace(node, image, linear)


def _can_decompose(node: fx.Node, linear: set[fx.Node]) -> bool:
    """Return whether this is a strided transposed convolution to few channels of a saved kernel."""
    u, weight, bias, stride, padding, dilation, transposed, _, groups = arguments(node)
    shapes = [shape_of(each) for each in (u, weight, node)]
    if not transposed or groups != 1 or bias is not None or weight in linear or None in shapes:
        return False
    kernel = shapes[1] or torch.Size()
    regular = {len(kernel) - 2} == {len(stride), len(padding)} and max(dilation) == 1
    same = all(len(shape or ()) == len(kernel) for shape in shapes)
    return regular and same and max(stride) > 1 and kernel[1] <= _IMAGE_CHANNELS


def _amounts(ends: Sequence[tuple[int, int]]) -> list[int]:
    """Return what to add on each side as torch takes it, from the last dimension on."""
    return [amount for each in reversed(ends) for amount in each]


def _cut_up(
    graph: fx.Graph, weight: fx.Node, kernel: torch.Size, stride: Sequence[int], taps: list[int]
) -> fx.Node:
    """Return the kernel (O, C, k₁, …) as one for all phases, (s₁ ⋯ C, O, t₁, …), turned round."""
    dims = range(len(stride))
    whole = [tap * step for tap, step in zip(taps, stride, strict=True)]
    missing = [(0, full - size) for full, size in zip(whole, kernel[2:], strict=True)]
    full = graph.call_function(_aten.constant_pad_nd.default, (weight, _amounts(missing)))
    apart = [*kernel[:2], *(each for d in dims for each in (taps[d], stride[d]))]
    parts = graph.call_function(_aten.reshape.default, (full, apart))
    order = [*(3 + 2 * d for d in dims), 1, 0, *(2 + 2 * d for d in dims)]
    parts = graph.call_function(_aten.permute.default, (parts, order))
    ends = [len(stride) + 2 + d for d in dims]
    parts = graph.call_function(_aten.flip.default, (parts, ends))
    shape = [math.prod(stride) * kernel[1], kernel[0], *taps]
    cut = graph.call_function(_aten.reshape.default, (parts, shape))
    cut.meta["val"] = placeholder_for(shape)
    return cut
