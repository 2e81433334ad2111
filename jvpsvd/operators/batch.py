"""Derivatives at many points of one kind: what `LinearMap` is for one point.

A recording is replayed at all points in one call. What it keeps that depends on the point has a
dimension for the points; the rest, the weights, has not, since a convolution with other weights at
each point is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import vmap

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.arguments import dense_tensor
from jvpsvd.operators.blocks import check_places
from jvpsvd.operators.derivatives import LinearMap, unchanged


class Side(Protocol):
    """J v, or J' u, at each of the points."""

    @property
    def together(self) -> bool:
        """Whether several points make one call of automatic differentiation."""

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        r"""Map the vectors (p, b, \\*in) of a run of p points to (p, b, \\*out)."""

    def select(self, index: Tensor) -> Side:
        """Return this side at the points of these places only."""


@dataclass(frozen=True)
class BatchedMap:
    r"""The derivatives of a function f at B points, as two batched maps.

    `point` is (B, \\*x.shape), `value` is (B, \\*f(x).shape).

    >>> from jvpsvd.operators import Trace
    >>> (J,) = Trace(torch.square, torch.zeros(2)).at_many(torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
    >>> J.value
    tensor([[ 1.,  4.],
            [ 0., 25.]])
    >>> J.push(torch.ones(2, 1, 2), chunk=8)
    tensor([[[ 2.,  4.]],
            [[ 0., 10.]]])
    >>> J.select(torch.tensor([1])).pull(torch.ones(1, 1, 2), chunk=8)
    tensor([[[ 0., 10.]]])
    """

    point: Tensor
    value: Tensor
    forward: Side
    reverse: Side
    widest: int | None = None
    """Elements of the largest tensor that one vector becomes on its way; None where not known."""
    at: Callable[[Tensor], BatchedMap] | None = None
    """The derivatives of the same function at other points of the same kind, however many."""

    def push(self, block: Tensor, chunk: int) -> Tensor:
        r"""Return J v for tangents (B, b, \\*x.shape), `chunk` vectors at a time.

        Shape (B, b, \\*f(x).shape).
        """
        _check_vectors(block, self.point)
        return _in_chunks(self.forward, block, self.value.shape[1:], chunk)

    def pull(self, block: Tensor, chunk: int) -> Tensor:
        r"""Return J' u for cotangents (B, b, \\*f(x).shape), `chunk` vectors at a time.

        Shape (B, b, \\*x.shape).
        """
        _check_vectors(block, self.value)
        return _in_chunks(self.reverse, block, self.point.shape[1:], chunk)

    def select(self, index: Tensor) -> BatchedMap:
        """Return the derivatives at the points of these places; nothing is evaluated again."""
        index = check_places(index, (len(self.point), 1, 1))
        return BatchedMap(
            point=_take(self.point, index),
            value=_take(self.value, index),
            forward=self.forward.select(index),
            reverse=self.reverse.select(index),
            widest=self.widest,
            at=self.at,
        )


@dataclass(frozen=True)
class _Replayed:
    """A linear graph with its inputs at all points; those that vary have a dimension for them."""

    graph: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    varies: tuple[bool, ...]
    weights: tuple[Tensor, ...]
    check: Callable[[], None]
    together = True

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        self.check()
        over_directions = vmap(self.graph, in_dims=(0, *(None for _ in self.inputs)))
        over_points = vmap(over_directions, in_dims=(0, *(0 if v else None for v in self.varies)))
        inputs = (t[points] if v else t for t, v in zip(self.inputs, self.varies, strict=True))
        images: Tensor = over_points(block, *inputs)
        return images

    def select(self, index: Tensor) -> Side:
        self.check()
        inputs = zip(self.inputs, self.varies, strict=True)
        return replayed(
            self.graph,
            tuple(_take(t, index) if v else t for t, v in inputs),
            self.varies,
            self.weights,
        )


@dataclass(frozen=True)
class _Stacked:
    """The maps of single points, one after the other."""

    maps: tuple[Callable[[Tensor], Tensor], ...]
    together = False

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        parts = zip(self.maps[points], block, strict=True)
        return torch.stack([apply(part) for apply, part in parts])

    def select(self, index: Tensor) -> Side:
        return _Stacked(tuple(self.maps[i] for i in index.tolist()))


def replayed(
    graph: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    varies: tuple[bool, ...],
    weights: Sequence[Tensor] = (),
) -> Side:
    r"""Return the side of a linear graph, a function of (direction, \\*inputs), at many points.

    Args:
        graph: Serves one direction at one point.
        inputs: Its further arguments; those that vary have the points along their first dimension.
        varies: Which of them vary.
        weights: Further tensors that must not change while the side is used.

    >>> x = torch.tensor([[1.0], [2.0]])
    >>> side = replayed(lambda v, x: 2 * x * v, (x,), (True,))
    >>> side(torch.ones(2, 3, 1), slice(0, 2)).squeeze()
    tensor([[2., 2., 2.],
            [4., 4., 4.]])
    """
    return _Replayed(graph, inputs, varies, tuple(weights), unchanged((*inputs, *weights)))


def batched(maps: Sequence[LinearMap]) -> BatchedMap:
    """Return the derivatives at single points as one, multiplied point by point.

    Raises:
        ArgumentError: If the function's values at the points differ in shape.

    >>> from jvpsvd.operators import by_transforms
    >>> J = batched([by_transforms(torch.square, x) for x in torch.eye(2)])
    >>> J.push(torch.ones(2, 1, 2), chunk=8)
    tensor([[[2., 0.]],
            [[0., 2.]]])
    """
    at = maps[0].at
    return BatchedMap(
        point=torch.stack([m.point for m in maps]),
        value=stack_values([m.value for m in maps]),
        forward=_Stacked(tuple(m.push for m in maps)),
        reverse=_Stacked(tuple(m.pull for m in maps)),
        at=None if at is None else lambda X: batched([at(x.clone()) for x in X]),
    )


def stack_values(values: Sequence[Tensor]) -> Tensor:
    """Return the function's values at all points as one tensor.

    Raises:
        ArgumentError: If they are not of one shape, dtype and device; names the first that differs.

    >>> stack_values([torch.ones(2), torch.ones(3)])
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the function's value is torch.float32 (2,) on cpu at point 0 ...
    """
    first = values[0]
    for place, value in enumerate(values):
        if (value.shape, value.dtype, value.device) != (first.shape, first.dtype, first.device):
            raise ArgumentError(
                f"the function's value is {first.dtype} {tuple(first.shape)} on {first.device} at "
                f"point 0 of the batch and {value.dtype} {tuple(value.shape)} on {value.device} at "
                f"point {place}; give points where it is of one kind"
            )
    return torch.stack(list(values))


def _check_vectors(block: object, at: Tensor) -> None:
    """Check that a block holds as many vectors of the shape of a point or value at each of them."""
    block, one = dense_tensor("the block", block), tuple(at.shape[1:])
    if block.ndim != at.ndim + 1 or (len(block), *block.shape[2:]) != tuple(at.shape):
        each = "".join(f", {size}" for size in one)
        raise ArgumentError(
            f"the vectors have shape {tuple(block.shape)}; give ({len(at)}, b{each}) for b of them "
            "at each point"
        )


def _in_chunks(side: Side, block: Tensor, image: Sequence[int], chunk: int) -> Tensor:
    count, width = block.shape[:2]
    together = min(count, chunk) if side.together else 1
    together = -(-count // -(-count // together))  # as many calls, of about equal size
    directions = max(1, chunk // together)
    out = block.new_empty(count, width, *image)
    for first in range(0, count, together):
        points = slice(first, first + together)
        for start in range(0, width, directions):
            part = block[points, start : start + directions]
            with torch.no_grad():
                out[points, start : start + directions] = side(part, points)
    return out


def _take(tensor: Tensor, index: Tensor) -> Tensor:
    """Return the rows at these places, laid out in memory as they were.

    Views that were recorded rely on the layout.
    """
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    taken = tensor.permute(order).index_select(order.index(0), index.to(tensor.device))
    return taken.permute([order.index(dim) for dim in range(tensor.ndim)])
