"""The derivative of a function by autograd alone, for what torch.func cannot take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from jvpsvd.errors import AdjointError, DerivativeError
from jvpsvd.operators.derivatives.adjointness import check_adjoint
from jvpsvd.operators.derivatives.differences import direction, refuse_hidden, refuse_inference
from jvpsvd.operators.derivatives.linear_map import LinearMap, refuse_after_change
from jvpsvd.operators.derivatives.transforms import missing_derivative
from jvpsvd.operators.function.evaluate import check_output, prepare


def by_reverse_passes(
    fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True
) -> LinearMap:
    """Return the derivative of fn at x by autograd alone, one vector after the other.

    Both products are passes over one graph: J' u, and J v = ∂/∂u ⟨J' u, v⟩. That is slow, and works
    for what torch.func cannot take: custom functions of the older style, activation checkpointing,
    weights sharded by FSDP2.

    Raises:
        ArgumentError: If a reverse pass of fn cannot be differentiated.
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step, or a part
            of its motion is computed under torch.inference_mode.

    >>> J = by_reverse_passes(torch.sin, torch.zeros(2))
    >>> J.jvp(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    fn = prepare(fn)
    point = x.detach().clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        value = _evaluate(fn, point)
        u = torch.zeros_like(value, requires_grad=True)
        try:
            product = _reverse_pass(value, point, u)
        except RuntimeError as error:
            raise missing_derivative(str(error)) from error

    def one(output: Tensor, source: Tensor, weight: Tensor) -> Tensor:
        if not output.requires_grad:
            return torch.zeros_like(source)
        (gradient,) = torch.autograd.grad(
            output, source, weight, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return gradient.detach()

    def at(z: Tensor) -> Callable[[Tensor], Tensor]:
        return by_reverse_passes(fn, z, check=False).jvp

    unless_changed = partial(refuse_after_change, fn, x.detach(), value.detach())
    J = LinearMap(
        point=x.detach(),
        value=value.detach(),
        jvp=unless_changed(lambda block: torch.stack([one(product, u, v) for v in block])),
        vjp=unless_changed(lambda block: torch.stack([one(value, point, w) for w in block])),
        at=partial(by_reverse_passes, fn, check=False),
    )
    try:
        along = direction(J.value)
        found = J.vjp(along[None])[0]
        largest = found.abs().max()
        # Of size 1, so that its image is 0 only where the second pass finds nothing.
        v = found / torch.where(largest > 0, largest, 1.0)
        image = J.jvp(v[None])[0]
    except RuntimeError as error:
        raise missing_derivative(str(error)) from error
    if check:
        if bool(v.any()) and not bool(image.any()):
            raise AdjointError(
                "J v comes out as 0, and J' u does not: a backward inside cannot be differentiated "
                "again, since it is once_differentiable or leaves torch; give custom functions a "
                "jvp, or a backward of torch's own operations"
            )
        check_adjoint(v, image, along, found, fn, J.point)
        refuse_inference(fn, J.point, at)
        image = J.jvp(direction(J.point)[None])[0]
        refuse_hidden(fn, J.point, J.value, image, at)
    return J


def _evaluate(fn: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    """Return fn at a point that requires grad."""
    try:
        return check_output(fn(point))
    except RuntimeError as error:
        if "nference tensor" not in str(error):
            raise
        raise DerivativeError(
            "fn goes through tensors made under torch.inference_mode, which torch cannot "
            "differentiate; take that out of fn, and load weights outside of it"
        ) from error


def _reverse_pass(value: Tensor, point: Tensor, u: Tensor) -> Tensor:
    """Return J' u as a function of u; zero where value does not depend on the point."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    (product,) = torch.autograd.grad(
        value, point, u, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return product
