"""Gradients of products A V with respect to V: A' times those of the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Multiply = Callable[[Tensor], Tensor]


def multiply_with_gradient(multiply: Multiply, transposed: Multiply, block: Tensor) -> Tensor:
    """Return A V such that autograd passes gradients to V, and to nothing else.

    Args:
        multiply: V ↦ A V, which autograd does not see.
        transposed: U ↦ A' U, by which gradients are multiplied.
        block: V (n, b), or (B, n, b).

    >>> A, V = torch.tensor([[1.0, 2.0]]), torch.ones(2, 1, requires_grad=True)
    >>> multiply_with_gradient(lambda V: A @ V, lambda U: A.T @ U, V).sum().backward()
    >>> V.grad.T
    tensor([[1., 2.]])
    """
    if not (block.requires_grad and torch.is_grad_enabled()):
        return multiply(block.detach())
    image: Tensor = _Product.apply(block, multiply, transposed)  # type: ignore[no-untyped-call]
    return image


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(block: Tensor, multiply: Multiply, transposed: Multiply) -> Tensor:
        return multiply(block.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Multiply, Multiply], output: Tensor) -> None:
        _, ctx.multiply, ctx.transposed = inputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed(gradient), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        image: Tensor = ctx.multiply(tangent)
        return image
