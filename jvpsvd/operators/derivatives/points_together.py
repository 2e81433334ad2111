"""The derivatives of a function at many points, all in one call of torch.func.

Nothing is recorded: each product evaluates the function again, at all points at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.operators.blocks import Selection
from jvpsvd.operators.derivatives.batched_map import BatchedMap, BatchedProduct
from jvpsvd.operators.derivatives.linear_map import refuse_another_value
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.lower_precision import Rounding

Function = Callable[[Tensor], Tensor]


def differentiate_together(fn: Function, X: Tensor, widest: int | None = None) -> BatchedMap:
    """Return the derivatives of fn at the points X[0], X[1], …, by `torch.func.vmap`.

    Whatever vmap cannot do is raised, here or by the products.

    Args:
        fn: The function of one point.
        X: The points.
        widest: Elements of the largest tensor that one vector becomes on its way, if known.

    >>> J = differentiate_together(torch.sin, torch.zeros(3, 2))
    >>> J.jvp(torch.ones(3, 1, 2), chunk=8).shape
    torch.Size([3, 1, 2])
    """
    evaluate = prepare(fn)
    eps_there = partial(Rounding(evaluate).eps_at, X[0])
    with torch.no_grad():
        values: Tensor = vmap(evaluate)(X)
    return BatchedMap(
        point=X,
        value=values,
        jvp_product=_TransformedProduct(evaluate, values, X, False, eps_there),
        vjp_product=_TransformedProduct(evaluate, values, X, True, eps_there),
        widest=widest,
        at=lambda Z: differentiate_together(fn, Z, widest),
        nearby=partial(_TransformedProduct, evaluate, None),
    )


@in_one_thread
def multiply_together(
    fn: Function, X: Tensor, block: Tensor, transposed: bool
) -> tuple[Tensor, Tensor]:
    r"""Return fn at points (p, \\*in), and its products there with vectors (p, b, \\*in or \\*out).

    >>> multiply_together(torch.square, torch.ones(2, 1), torch.ones(2, 3, 1), False)[1].shape
    torch.Size([2, 3, 1])
    """
    at_points, by_direction = vmap(fn), block.transpose(0, 1)
    with torch.no_grad():
        if transposed:
            values, vjp_fn = vjp(at_points, X)[:2]
            images = vmap(lambda U: vjp_fn(U)[0])(by_direction)
        else:
            out_dims: Any = (None, 0)  # the values do not depend on the direction
            along = vmap(lambda V: jvp(at_points, (X,), (V,))[:2], out_dims=out_dims)
            values, images = along(by_direction)
    return values.detach(), images.detach().transpose(0, 1)


@dataclass(frozen=True)
class _TransformedProduct:
    """J v, or J' u, at many points; refused once the function has another value at one of them."""

    fn: Function
    values: Tensor | None
    """None where they are not known."""
    X: Tensor
    transposed: bool
    eps: Callable[[], float | None] | None = None
    """Of a lower precision inside fn."""
    together = True

    def __call__(self, block: Tensor, points: slice) -> Tensor:
        again, images = multiply_together(self.fn, self.X[points], block, self.transposed)
        if self.values is not None:
            refuse_another_value(again, self.values[points], self.eps)
        return images

    def select(self, chosen: Selection) -> BatchedProduct:
        values = None if self.values is None else chosen(self.values)
        return replace(self, values=values, X=chosen(self.X))
