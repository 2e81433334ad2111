"""Gradients of products A V with respect to V: A' times those of the product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
    followed = torch.is_grad_enabled() and (block.requires_grad or _is_batched(block))
    if not (followed or _is_dual(block)):
        return multiply(block.detach())
    image: Tensor = _Product.apply(block, multiply, transposed)  # type: ignore[no-untyped-call]
    return image


def _is_batched(block: Tensor) -> bool:
    """Tell whether `vmap` runs over a block."""
    return bool(torch._C._functorch.is_batchedtensor(block))


def _is_dual(block: Tensor) -> bool:
    """Tell whether forward mode follows a block."""
    dual = forward_ad.unpack_dual(block)  # type: ignore[no-untyped-call]
    return dual.tangent is not None


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
    def vmap(
        info: Any,
        in_dims: tuple[int | None, None, None],
        block: Tensor,
        multiply: Multiply,
        transposed: Multiply,
    ) -> tuple[Tensor, int]:
        """Multiply all blocks as one wide one."""
        blocks = block.movedim(in_dims[0] or 0, -1)
        image: Tensor = _Product.apply(blocks.flatten(-2), multiply, transposed)  # type: ignore[no-untyped-call]
        return torch.unflatten(image, -1, blocks.shape[-2:]), image.ndim

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: None) -> Tensor:
        image: Tensor = ctx.multiply(tangent)
        return image
