"""A function with several outputs, as it is evaluated while its derivative is recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.obstacles import AutogradMode


class Products(NamedTuple):
    """f(x), J v and J' u of every output: what is recorded."""

    values: tuple[Tensor, ...]
    jvps: tuple[Tensor, ...]
    vjps: tuple[Tensor, ...]


class Outputs:
    """The outputs of a function, and their derivatives by torch.func.

    Args:
        fn: Returns one output, or a tuple of several.
        of_one: Returns the function of one of several outputs, where that is less work than all.

    >>> import torch
    >>> outputs = Outputs(lambda x: (x**2, x.sum(0, keepdim=True)))
    >>> outputs(torch.tensor([1.0, 3.0]))
    (tensor([1., 9.]), tensor([4.]))
    """

    def __init__(
        self,
        fn: Callable[[Tensor], Tensor | tuple[Tensor, ...]],
        of_one: Callable[[int], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self.fn = fn
        """The function as the user gave it."""
        self._evaluate, self._of_one = prepare(fn), of_one

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return all outputs at x."""
        values = self._evaluate(x)
        return values if isinstance(values, tuple) else (values,)

    def select(self, index: int) -> Callable[[Tensor], Tensor]:
        """Return one output as a function."""
        return (lambda x: self(x)[index]) if self._of_one is None else prepare(self._of_one(index))

    def compute_products(self, x: Tensor, v: Tensor, *us: Tensor) -> Products:
        """Return f(x), J v and J' u of every output, from an evaluation for each product."""
        values, jvps = jvp(self, (x,), (v,))[:2]
        vjps = [vjp(self.select(index), x)[1](u)[0] for index, u in enumerate(us)]
        return Products(values, jvps, tuple(vjps))

    def compute_products_together(self, x: Tensor, v: Tensor, u: Tensor) -> Products:
        """Return the same of one output from one evaluation.

        Of several, a reverse pass of all would take zeros through the parts behind one.

        Forward mode is the inner one, so that fn would not see that a reverse pass follows. If fn
        asks what autograd does, each product has an evaluation. All that both products need is in
        memory together.
        """
        mode = AutogradMode()

        def evaluate(x: Tensor) -> tuple[Tensor, ...]:
            with mode:
                return self(x)

        def evaluate_with_jvp(x: Tensor) -> tuple[Any, Any]:
            values, jvps = jvp(evaluate, (x,), (v,))[:2]
            return values, (values, jvps)

        found: tuple[Any, ...] = vjp(evaluate_with_jvp, x, has_aux=True)
        _, vjp_fn, (values, jvps) = found
        if mode.found:
            return self.compute_products(x, v, u)
        return Products(values, jvps, vjp_fn((u,)))

    def compute_vjps(self, index: int, x: Tensor, block: Tensor) -> Tensor:
        """Return J' u of one output, for several u in one call.

        torch 2.13 and 2.14 are wrong for a single u where batch normalisation meets a u in
        channels-last order with an odd stride: conv, norm, `flatten(2).transpose(1, 2)`.
        """
        vjp_fn = vjp(self.select(index), x)[1]
        images: Tensor = vmap(lambda u: vjp_fn(u)[0])(block)
        return images.detach()
