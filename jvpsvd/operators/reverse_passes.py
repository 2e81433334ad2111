"""The derivative of a function by autograd alone, for what torch.func cannot take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from jvpsvd.errors import DerivativeError
from jvpsvd.operators.derivatives import (
    LinearMap,
    check_output,
    prepared,
    refuse_unequal_sides,
    refused_once_changed,
    without_derivative,
)
from jvpsvd.operators.differences import direction, refuse_hidden, refuse_inference


def by_reverse_passes(
    fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True
) -> LinearMap:
    """Return the derivative of fn at x by autograd alone, one vector after the other.

    Both sides are passes over one graph: J' u, and J v = ∂/∂u ⟨J' u, v⟩. It is slow, and works for
    what torch.func cannot take: custom functions of the older style, activation checkpointing,
    weights sharded by FSDP2.

    Raises:
        ArgumentError: If a reverse pass of fn cannot be differentiated.
        AdjointError: If the two sides are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step, or a part
            of its motion is computed under torch.inference_mode.

    >>> J = by_reverse_passes(torch.sin, torch.zeros(2))
    >>> J.push(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    fn = prepared(fn)
    point = x.detach().clone().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        value = _evaluated(fn, point)
        u = torch.zeros_like(value, requires_grad=True)
        try:
            pulled = _reverse_pass(value, point, u)
        except RuntimeError as error:
            raise without_derivative(str(error)) from error

    def one(output: Tensor, source: Tensor, weight: Tensor) -> Tensor:
        if not output.requires_grad:
            return torch.zeros_like(source)
        (gradient,) = torch.autograd.grad(
            output, source, weight, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return gradient.detach()

    def at(z: Tensor) -> Callable[[Tensor], Tensor]:
        return by_reverse_passes(fn, z, check=False).push

    unless_changed = partial(refused_once_changed, fn, x.detach(), value.detach())
    J = LinearMap(
        point=x.detach(),
        value=value.detach(),
        push=unless_changed(lambda block: torch.stack([one(pulled, u, v) for v in block])),
        pull=unless_changed(lambda block: torch.stack([one(value, point, w) for w in block])),
        at=partial(by_reverse_passes, fn, check=False),
    )
    try:
        v = J.pull(direction(J.value)[None])[0]
        image = J.push(v[None])[0]
    except RuntimeError as error:
        raise without_derivative(str(error)) from error
    if check:
        refuse_unequal_sides(v, image, direction(J.value), v, fn, J.point)
        refuse_inference(fn, J.point, at)
        image = J.push(direction(J.point)[None])[0]
        refuse_hidden(fn, J.point, J.value, image, at)
    return J


def _evaluated(fn: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
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
    (pulled,) = torch.autograd.grad(
        value, point, u, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return pulled
