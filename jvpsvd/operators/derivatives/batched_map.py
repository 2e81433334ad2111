"""The derivatives of a function at many points: what `LinearMap` is for one point.

A recording is replayed at all points in one call. What it keeps that depends on the point has a
dimension for the points. The rest, the weights, has none: a convolution with other weights at each
point is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.func import vmap

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.blocks import Selection, check_indices
from jvpsvd.operators.derivatives.linear_map import Held, LinearMap, make_change_check
from jvpsvd.operators.function.evaluate import stack_values
from jvpsvd.operators.function.lower_precision import LowerPrecision


class BatchedProduct(Protocol):
    """The product J v, or J' u, at each of the points."""

    @property
    def together(self) -> bool:
        """Whether several points make one call of automatic differentiation."""

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        r"""Map the vectors (p, b, \\*in) of a run of p points to (p, b, \\*out)."""

    def select(self, chosen: Selection) -> BatchedProduct:
        """Return this product at the chosen points only."""


@dataclass(frozen=True, eq=False)
class BatchedMap:
    r"""The derivatives of a function f at B points, as two maps of blocks of vectors.

    `point` is (B, \\*x.shape), `value` is (B, \\*f(x).shape).

    >>> from jvpsvd.operators import Trace
    >>> (J,) = Trace(torch.square, torch.zeros(2)).at_many(torch.tensor([[1.0, 2.0], [0.0, 5.0]]))
    >>> J.value
    tensor([[ 1.,  4.],
            [ 0., 25.]])
    >>> J.jvp(torch.ones(2, 1, 2), chunk=8)
    tensor([[[ 2.,  4.]],
            [[ 0., 10.]]])
    >>> J.select(torch.tensor([1])).vjp(torch.ones(1, 1, 2), chunk=8)
    tensor([[[ 0., 10.]]])
    """

    point: Tensor
    value: Tensor
    jvp_product: BatchedProduct
    vjp_product: BatchedProduct
    widest: int | None = None
    """Elements of the largest tensor that one vector becomes on its way; None where not known."""
    at: Callable[[Tensor], BatchedMap] | None = None
    """The derivatives of the same function at other points of the same kind, however many."""
    nearby: Callable[[Tensor, bool], BatchedProduct] | None = None
    """The product J v, or J' u if the flag is set, at as many other points; None where it is not
    had for less than all of their derivative."""
    held: tuple[Held, ...] = ()
    """What is kept besides weights, as far as it is known."""
    lower_precision: LowerPrecision | None = None
    """The lowest precision that f computes in, where that is known to be lower than the points'."""

    def jvp(self, block: Tensor, chunk: int) -> Tensor:
        r"""Return J v for vectors (B, b, \\*x.shape), `chunk` vectors at a time.

        Shape (B, b, \\*f(x).shape).
        """
        _check_vectors(block, self.point)
        return multiply_in_chunks(self.jvp_product, block, self.value.shape[1:], chunk)

    def vjp(self, block: Tensor, chunk: int) -> Tensor:
        r"""Return J' u for vectors (B, b, \\*f(x).shape), `chunk` vectors at a time.

        Shape (B, b, \\*x.shape).
        """
        _check_vectors(block, self.value)
        return multiply_in_chunks(self.vjp_product, block, self.point.shape[1:], chunk)

    def select(self, index: Tensor) -> BatchedMap:
        """Return the derivatives at the points of these indices; nothing is evaluated again."""
        chosen = Selection(check_indices(index, (len(self.point), 1, 1)))
        return BatchedMap(
            point=chosen(self.point),
            value=chosen(self.value),
            jvp_product=self.jvp_product.select(chosen),
            vjp_product=self.vjp_product.select(chosen),
            widest=self.widest,
            at=self.at,
            nearby=self.nearby,
            held=tuple(
                each if each.shared else Held(each.bytes * len(chosen) // len(self.point))
                for each in self.held
            ),
            lower_precision=self.lower_precision,
        )


@dataclass(frozen=True)
class _ReplayedProduct:
    """A product graph with its inputs at all points; those that vary have a dimension for them."""

    graph: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    varies: tuple[bool, ...]
    check: Callable[[], None]
    check_weights: Callable[[], None]
    together = True

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        self.check()
        self.check_weights()
        over_directions = vmap(self.graph, in_dims=(0, *(None for _ in self.inputs)))
        over_points = vmap(over_directions, in_dims=(0, *(0 if v else None for v in self.varies)))
        inputs = (t[points] if v else t for t, v in zip(self.inputs, self.varies, strict=True))
        images: Tensor = over_points(block, *inputs)
        return images

    def select(self, chosen: Selection) -> BatchedProduct:
        self.check()
        self.check_weights()
        inputs = zip(self.inputs, self.varies, strict=True)
        return replay_at_points(
            self.graph,
            tuple(chosen(t) if v else t for t, v in inputs),
            self.varies,
            self.check_weights,
        )


@dataclass(frozen=True)
class _StackedProduct:
    """The products at single points, one after the other."""

    products: tuple[Callable[[Tensor], Tensor], ...]
    together = False

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        pairs = zip(self.products[points], block, strict=True)
        return torch.stack([product(part) for product, part in pairs])

    def select(self, chosen: Selection) -> BatchedProduct:
        return _StackedProduct(chosen.of(self.products))


def replay_at_points(
    graph: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    varies: tuple[bool, ...],
    check_weights: Callable[[], None] = lambda: None,
) -> BatchedProduct:
    r"""Return the product of a graph, a function of (direction, \\*inputs), at many points.

    Args:
        graph: Serves one direction at one point.
        inputs: Its further arguments; those that vary have the points along their first dimension.
        varies: Which of them vary.
        check_weights: A further check before each product.

    >>> x = torch.tensor([[1.0], [2.0]])
    >>> product = replay_at_points(lambda v, x: 2 * x * v, (x,), (True,))
    >>> product(torch.ones(2, 3, 1), slice(0, 2)).squeeze()
    tensor([[2., 2., 2.],
            [4., 4., 4.]])
    """
    return _ReplayedProduct(graph, inputs, varies, make_change_check(inputs), check_weights)


def stack_maps(maps: Sequence[LinearMap]) -> BatchedMap:
    """Return the derivatives at single points as one, multiplied point by point.

    Raises:
        ArgumentError: If the function's values at the points differ in shape.

    >>> from jvpsvd.operators import by_transforms
    >>> J = stack_maps([by_transforms(torch.square, x) for x in torch.eye(2)])
    >>> J.jvp(torch.ones(2, 1, 2), chunk=8)
    tensor([[[2., 0.]],
            [[0., 2.]]])
    """
    at = maps[0].at
    return BatchedMap(
        point=torch.stack([m.point for m in maps]),
        value=stack_values([m.value for m in maps]),
        jvp_product=_StackedProduct(tuple(m.jvp for m in maps)),
        vjp_product=_StackedProduct(tuple(m.vjp for m in maps)),
        at=None if at is None else lambda X: stack_maps([at(x.clone()) for x in X]),
        held=tuple(dict.fromkeys(each for m in maps for each in m.held)),
    )


def _check_vectors(block: object, at: Tensor) -> None:
    """Check that a block holds as many vectors of the shape of a point or value at each of them."""
    block, one = dense_tensor("the block", block), tuple(at.shape[1:])
    if block.ndim != at.ndim + 1 or (len(block), *block.shape[2:]) != tuple(at.shape):
        each = "".join(f", {size}" for size in one)
        raise ArgumentError(
            f"the vectors have shape {tuple(block.shape)}; give ({len(at)}, b{each}) for b of them "
            "at each point"
        )


def multiply_in_chunks(
    product: BatchedProduct, block: Tensor, image: Sequence[int], chunk: int
) -> Tensor:
    """Return the products of vectors (B, b, …), each of this shape, `chunk` vectors at a time."""
    count, width = block.shape[:2]
    # All vectors of a point first: what is computed once for a point serves them all.
    directions = max(1, min(width, chunk))
    together = min(count, max(1, chunk // directions)) if product.together else 1
    together = -(-count // -(-count // together))  # as many calls, of about equal size
    out = block.new_empty(count, width, *image)
    for first in range(0, count, together):
        points = slice(first, first + together)
        for start in range(0, width, directions):
            part = block[points, start : start + directions]
            with torch.no_grad():
                out[points, start : start + directions] = product(part, points)
    return out
