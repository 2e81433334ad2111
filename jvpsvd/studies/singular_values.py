"""Singular values of a Jacobian as a tensor with gradients, for spectral penalties in training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import DerivativeError
from jvpsvd.operators import JacobianOperator
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.function.batch_of_one import function_of_one
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.svd import SVDResult, svds

logger = logging.getLogger(__name__)

# Neighbours that differ by less than their residuals, or by less than this share of s₁, count as a
# cluster: their vectors, and with them their gradients, may be any mixture.
_CLUSTERED = 1e-6


def singular_values(
    fn: Callable[[Tensor], Any] | nn.Module,
    x: Tensor,
    k: int = 1,
    *,
    batch_dims: int = 0,
    tol: float = 1e-5,
    seed: int | None = 0,
) -> Tensor:
    """Return the k largest singular values of ∂fn/∂x, differentiable like any other tensor.

    They depend on x and on all that fn uses: its parameters, say. With the singular vectors u and v
    held, ∂σ = u' (∂J) v (Stewart & Sun, Matrix Perturbation Theory, 1990, section IV.2), so the
    gradient costs one reverse pass through k vector–Jacobian products, which are taken together.

    There are no second derivatives: whoever differentiates the gradient gets an error.

    Where two values coincide, only their sum is differentiable, and a line in the log says so. At
    a value of 0 there is no derivative.

    Args:
        fn: The function, made of operations that can be differentiated twice; of one point. It may
            return several tensors in a dict, tuple or list, as for `JacobianOperator`.
        x: The point, or B points along a first dimension.
        k: How many values.
        batch_dims: 1 if x holds many points. fn takes one, without the dimension of the batch. A
            module that wants a batch is given batches of one, and one that computes something else
            of these is refused, as by `JacobianOperator`.
        tol: Tolerance of the solve; gradients have an error of about tol · s₁ over the gap to the
            next value.
        seed: Seed of the solve; None: another one each time.

    Returns:
        (k,) values, descending; (B, k) for many points.

    Raises:
        ArgumentError, NonFiniteError, ModelError: As `JacobianOperator` and `svds` do.
        DerivativeError: Where the gradient is differentiated.

    >>> W = torch.tensor([[3.0, 0.0], [0.0, 2.0]], requires_grad=True)
    >>> largest, second = singular_values(lambda x: W @ x, torch.ones(2), k=2)
    >>> (gradient,) = torch.autograd.grad(largest, W)
    >>> gradient.abs().round(decimals=4)
    tensor([[1., 0.],
            [0., 0.]])
    """
    x = tensor_of("x", x) if is_array(x) else dense_tensor("the point x", x)
    J = JacobianOperator(fn, x, batch_dims=batch_dims, derivatives="transforms")
    result = svds(J, k, tol=tol, seed=seed)
    _tell_clusters(result)
    if result.U is None or result.Vh is None or not torch.is_grad_enabled():
        return result.s
    with torch.enable_grad():
        point = x if x.requires_grad else x.detach().requires_grad_()
        # (k, *x); points of a batch do not depend on each other.
        rows = _vjps(fn, point, result.U.movedim(-1, 0), batch_dims)
        right = result.Vh.movedim(-2, 0).reshape(-1, *x.shape)
        products = (rows * right).flatten(1 + batch_dims).sum(-1).movedim(0, -1)
    # The solve has the better value, to second order; the product has the gradient.
    return result.s + _differentiable_once(products - products.detach())


def _differentiable_once(values: Tensor) -> Tensor:
    same: Tensor = _OnceDifferentiable.apply(values)  # type: ignore[no-untyped-call]
    return same


class _OnceDifferentiable(torch.autograd.Function):
    """The identity, whose gradient cannot be differentiated: u and v are held in it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Recorded under create_graph alone.
        zero: Tensor = _Refused.apply(*ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradient + zero

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        raise DerivativeError(
            "singular_values has no forward mode; take its gradient by reverse mode, as "
            "torch.func.grad does"
        )


class _Refused(torch.autograd.Function):
    """Zeros, with an error where they are differentiated by what the values depend on."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor) -> Tensor:
        return torch.zeros_like(values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, second: Tensor) -> Tensor:
        raise DerivativeError(
            "singular_values has first derivatives alone, since the gradient holds the singular "
            "vectors; take its differences, or differentiate torch.linalg.svdvals of a whole "
            "Jacobian twice"
        )


def _vjps(fn: Callable[[Tensor], Any], point: Tensor, left: Tensor, batch_dims: int) -> Tensor:
    """Return J' u (k, *point) for vectors u (k, …), with the graph that gradients go through."""
    # Prepared, since fused kernels have no second derivative.
    fn = OfVector(function_of_one(fn, point[0]) if batch_dims else fn, None)
    evaluate = prepare(fn, by_weights=True)
    try:
        value, pull = torch.func.vjp(torch.vmap(evaluate) if batch_dims else evaluate, point)[:2]
        rows: Tensor = torch.vmap(lambda u: pull(u)[0])(left.reshape(-1, *value.shape))
    except RuntimeError:  # what torch.func cannot take, such as custom functions of the older style
        value = torch.stack([evaluate(x) for x in point]) if batch_dims else evaluate(point)
        if not value.requires_grad:  # a constant
            return point.new_zeros(len(left), *point.shape)
        products = [
            torch.autograd.grad(value, point, u, create_graph=True, materialize_grads=True)[0]
            for u in left.reshape(-1, *value.shape)
        ]
        return torch.stack(products)
    return rows


def _tell_clusters(result: SVDResult) -> None:
    """Log which values lie too close together for gradients of their own."""
    s, residuals = result.s, result.residuals
    if s.shape[-1] == 1:
        return
    apart = torch.maximum(residuals[..., :-1] + residuals[..., 1:], _CLUSTERED * s[..., :1])
    close = (s[..., :-1] - s[..., 1:] <= apart).reshape(-1, s.shape[-1] - 1)
    if bool(close.any()):
        first = int(close.any(0).nonzero()[0])
        logger.warning(
            "singular values %d and %d lie within %.0e of each other; only the gradient of their "
            "sum is defined",
            first,
            first + 1,
            float(apart.max()),
        )
