"""How the derivative of a function at a point is applied to a batch of directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.errors import ArgumentError


@dataclass(frozen=True)
class LinearMap:
    r"""The derivative J of a function f at one point x, as two batched maps.

    `push` takes tangents of shape (b, \\*x.shape) to J v of shape (b, \\*f(x).shape); `pull` takes
    cotangents (b, \\*f(x).shape) to J' u of shape (b, \\*x.shape).
    """

    point: Tensor
    value: Tensor
    push: Callable[[Tensor], Tensor]
    pull: Callable[[Tensor], Tensor]


def by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor) -> LinearMap:
    """Return the derivative of fn at x by ``vmap(jvp)`` and ``vmap(vjp)``.

    Works for every function that torch.func accepts. The reverse side evaluates fn once and keeps
    its activations; forward mode has no such state and evaluates fn again for each batch (once a
    batch, not once a vector). `jvpsvd.operators.Trace` evaluates it once for both.

    >>> J = by_transforms(torch.sin, torch.zeros(2))
    >>> J.push(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    x = x.detach()
    value, pull = vjp(fn, x)[:2]

    def push_one(v: Tensor) -> Tensor:
        tangent: Tensor = jvp(fn, (x,), (v,))[1]
        return tangent

    def pull_one(u: Tensor) -> Tensor:
        cotangent: Tensor = pull(u)[0]
        return cotangent

    return LinearMap(
        point=x,
        value=value.detach(),
        push=without_grad(vmap(push_one)),
        pull=without_grad(vmap(pull_one)),
    )


def without_grad(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return `apply` recording no graph: products are values, never differentiated again."""

    def apply_without_grad(block: Tensor) -> Tensor:
        with torch.no_grad():
            return apply(block)

    return apply_without_grad


def check_output(value: object) -> Tensor:
    """Return `value` if a Jacobian can be taken of it.

    Raises:
        ArgumentError: If it is not a non-empty tensor of a real floating dtype.
    """
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"the function returned {type(value).__name__}, not a tensor; wrap it so that it "
            "returns the one tensor to differentiate"
        )
    if not value.is_floating_point() or value.numel() == 0:
        raise ArgumentError(
            f"the function returned a {value.dtype} tensor of shape {tuple(value.shape)}; a "
            "Jacobian needs a non-empty real floating output"
        )
    return value
