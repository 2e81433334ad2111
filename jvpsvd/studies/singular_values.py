"""Singular values of a Jacobian as a tensor with gradients, for spectral penalties in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never

import torch
from torch import Tensor, nn

from jvpsvd.arguments import dense_tensor, refuse_unknown_names
from jvpsvd.errors import JvpsvdError
from jvpsvd.operators import JacobianOperator
from jvpsvd.operators.arrays import is_array, tensor_of
from jvpsvd.operators.function.batch_of_one import function_of_one
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.pytrees import OfVector
from jvpsvd.operators.function.scripted import networks_of_scripted
from jvpsvd.studies.clusters import tell_clusters
from jvpsvd.studies.reverse_mode import (
    differentiable_once,
    failures_of_transforms_named,
    is_transformed,
    refuse_forward_mode,
)
from jvpsvd.svd import svds


def singular_values(
    fn: Callable[[Tensor], Any] | nn.Module,
    x: Tensor,
    k: int = 1,
    *,
    batch_dims: int = 0,
    tol: float = 1e-5,
    seed: int | None = 0,
    **other_names: Never,
) -> Tensor:
    """Return the k largest singular values of ∂fn/∂x, differentiable like any other tensor.

    They depend on x and on all that fn uses: its parameters, say. With the singular vectors u and v
    held, ∂σ = u' (∂J) v (Stewart & Sun, Matrix Perturbation Theory, 1990, section IV.2), so the
    gradient costs one reverse pass through k vector–Jacobian products, which are taken together.

    There are no second derivatives: whoever differentiates the gradient gets an error.

    Where values coincide, only the sum over all of them is differentiable: that of the first two of
    three equal values is not, and neither is one whose copies k leaves out. A line in the log says
    so, also of the value after the k-th, as far as the solve saw it. At a value of 0 there is no
    derivative, and a line says that.

    Forward mode (``torch.func.jvp``, ``jacfwd``, ``hessian``, dual numbers) and ``torch.vmap`` are
    refused; ``torch.func.grad`` takes what `torch.func` can differentiate, of one point.

    Args:
        fn: The function, made of operations that can be differentiated twice; of one point. Its
            value may be a dict, tuple or list of tensors, as for `JacobianOperator`.
        x: The point, or B points along a first dimension.
        k: How many values.
        batch_dims: 1 if x holds many points. fn takes one, without the dimension of the batch. A
            module that wants a batch is given batches of one, and one that computes something else
            of these is refused, as by `JacobianOperator`.
        tol: Tolerance of the solve; gradients have an error of about tol · s₁ over the gap to the
            next value.
        seed: Seed of the solve; None: another one each time.
        other_names: None: each is refused in a line that says what it is called here.

    Returns:
        (k,) values, descending; (B, k) for many points.

    Raises:
        ArgumentError, NonFiniteError, ModelError: As `JacobianOperator` and `svds` do.
        DerivativeError: Where the gradient is differentiated; in forward mode, which a solve does
            not carry through; under torch.func.grad, if fn cannot be taken so.

    >>> W = torch.tensor([[3.0, 0.0], [0.0, 2.0]], requires_grad=True)
    >>> largest, second = singular_values(lambda x: W @ x, torch.ones(2), k=2)
    >>> (gradient,) = torch.autograd.grad(largest, W)
    >>> gradient.abs().round(decimals=4)
    tensor([[1., 0.],
            [0., 0.]])
    """
    refuse_unknown_names(singular_values, other_names)
    x = tensor_of("x", x) if is_array(x) else dense_tensor("the point x", x)
    refuse_forward_mode(fn, x, batch_dims)
    with failures_of_transforms_named():
        return _singular_values(fn, x, k, batch_dims, tol, seed)


def _singular_values(
    fn: Callable[[Tensor], Any], x: Tensor, k: int, batch_dims: int, tol: float, seed: int | None
) -> Tensor:
    J = JacobianOperator(fn, x, batch_dims=batch_dims, derivatives="transforms")
    result = svds(J, k, tol=tol, seed=seed)
    tell_clusters(result)
    if result.U is None or result.Vh is None or not torch.is_grad_enabled():
        return result.s
    with torch.enable_grad():
        # (k, *x); points of a batch do not depend on each other.
        rows = _vjps(fn, x, result.U.movedim(-1, 0), batch_dims)
        right = result.Vh.movedim(-2, 0).reshape(-1, *x.shape)
        products = rows * right
        # A point may be a single number.
        products = products.reshape(*products.shape[: 1 + batch_dims], -1).sum(-1).movedim(0, -1)
    # The solve has the better value, to second order; the product has the gradient.
    return result.s + differentiable_once(products - products.detach())


def _vjps(fn: Callable[[Tensor], Any], x: Tensor, left: Tensor, batch_dims: int) -> Tensor:
    """Return J' u (k, *x) for vectors u (k, …), with the graph that gradients go through."""
    # Prepared, since fused kernels have no second derivative.
    of_vector = OfVector(function_of_one(fn, x[0]) if batch_dims else fn, None)
    evaluate = prepare(of_vector, by_weights=True)
    if networks_of_scripted(fn):  # the backward of torch.jit drops what torch.func differentiates
        if is_transformed():
            raise RuntimeError("a part of fn was made by torch.jit")
        return _vjps_one_by_one(evaluate, x, left, batch_dims)
    try:
        value, vjp_fn = torch.func.vjp(torch.vmap(evaluate) if batch_dims else evaluate, x)[:2]
        rows: Tensor = torch.vmap(lambda u: vjp_fn(u)[0])(left.reshape(-1, *value.shape))
    except (RuntimeError, JvpsvdError):  # what torch.func cannot take, as older custom functions
        if is_transformed():  # autograd would see no path through the transform, and give zeros
            raise
        return _vjps_one_by_one(evaluate, x, left, batch_dims)
    return rows


def _vjps_one_by_one(
    evaluate: Callable[[Tensor], Tensor], x: Tensor, left: Tensor, batch_dims: int
) -> Tensor:
    """Return what `_vjps` does, by reverse passes of autograd."""
    point = x if x.requires_grad else x.detach().requires_grad_()
    value = torch.stack([evaluate(z) for z in point]) if batch_dims else evaluate(point)
    if not value.requires_grad:  # a constant
        return point.new_zeros(len(left), *point.shape)
    products = [
        torch.autograd.grad(value, point, u, create_graph=True, materialize_grads=True)[0]
        for u in left.reshape(-1, *value.shape)
    ]
    return torch.stack(products)
