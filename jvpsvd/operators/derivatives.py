"""How the derivative of a function at a point is applied to a batch of directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.errors import ArgumentError
from jvpsvd.operators.attention import differentiable_attention


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
    """Return the derivative of fn at x by the transforms of torch.func.

    The reverse side is ``vmap(vjp)``: fn is evaluated once and its activations are kept. The
    forward side is ``vmap(jvp)``, which evaluates fn again for each batch (once a batch, not once a
    vector); where an operation of fn has no forward mode, or fn looks at its values, it is two
    reverse passes, J v = ∂/∂u ⟨J' u, v⟩. `jvpsvd.operators.Trace` evaluates fn once for both sides.

    Raises:
        ArgumentError: If fn has neither forward mode nor a second reverse pass.

    >>> J = by_transforms(torch.sin, torch.zeros(2))
    >>> J.push(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    x = x.detach()
    fn = prepared(fn)
    value, pull = vjp(fn, x)[:2]

    def pull_one(u: Tensor) -> Tensor:
        cotangent: Tensor = pull(u)[0]
        return cotangent

    return LinearMap(
        point=x,
        value=value.detach(),
        push=_forward_side(fn, x, value.detach(), pull_one),
        pull=without_grad(vmap(pull_one)),
    )


def _forward_side(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    pull_one: Callable[[Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    """Return the first way of taking J v that works on a block."""

    def push_one(v: Tensor) -> Tensor:
        tangent: Tensor = jvp(fn, (x,), (v,))[1]
        return tangent

    reasons = []
    try:
        push = without_grad(vmap(push_one))
        push(torch.zeros_like(x)[None])
    except Exception as error:  # torch raises what the operation at fault raises
        reasons.append(str(error))
    else:
        return push
    try:
        pull_again = vjp(pull_one, torch.zeros_like(value))[1]
        push = without_grad(vmap(lambda v: pull_again(v)[0]))
        _refuse_unequal_sides(push, without_grad(pull_one), value)
    except Exception as error:
        reasons.append(str(error))
    else:
        return push
    first, second = (" ".join(reason.split())[:200] for reason in reasons)
    raise ArgumentError(
        f"fn has neither forward mode ({first}) nor a second reverse pass ({second}); replace the "
        "operation that is named"
    )


def _refuse_unequal_sides(
    push: Callable[[Tensor], Tensor], pull_one: Callable[[Tensor], Tensor], value: Tensor
) -> None:
    """Check ⟨J v, u⟩ = ⟨v, J' u⟩: a backward that is no function of u for torch leaves J v = 0."""
    u = direction(value)
    v = pull_one(u)
    image = push(v[None])[0]
    scale = max(v.norm() ** 2, image.norm() * u.norm())
    if ((image * u).sum() - v.norm() ** 2).abs() > torch.finfo(u.dtype).eps ** 0.5 * scale:
        raise ArgumentError("its backward cannot be differentiated")


def direction(like: Tensor) -> Tensor:
    """Return a direction without symmetry, the same at every call; no random state is touched."""
    angles = torch.arange(like.numel(), dtype=torch.float64).mul_(0.7)
    return angles.cos().to(like.device, like.dtype).reshape(like.shape)


def prepared(fn: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """Return fn as it is evaluated everywhere: on a copy, with attention that has derivatives.

    The copy is for functions that change their argument in place, such as a network that begins
    with an in-place ReLU.
    """

    def evaluate(x: Tensor) -> Any:
        with differentiable_attention():
            return fn(x.clone())

    return evaluate


def without_grad(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return `apply` recording no graph: products are values, never differentiated again."""

    def apply_without_grad(block: Tensor) -> Tensor:
        with torch.no_grad():
            return apply(block)

    return apply_without_grad


def unchanged(tensors: Sequence[Tensor]) -> Callable[[], None]:
    """Return a check that none of the tensors has been changed in place since this call.

    The check raises `ArgumentError` if one has: a derivative that reads weights later than its
    value did is the derivative of no function.

    >>> weight = torch.ones(2)
    >>> check = unchanged([weight])
    >>> _ = weight.zero_()
    >>> check()
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: the weights have changed since this derivative was taken; ...
    """

    def versions() -> list[int]:
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]

    before = versions()

    def check() -> None:
        if versions() != before:
            raise ArgumentError(
                "the weights have changed since this derivative was taken; take it again"
            )

    return check


def agree(ours: Tensor, theirs: Tensor, floor: float = 0.0) -> bool:
    """Return whether two evaluations of the same thing differ by no more than rounding.

    Compared on the scale of the largest finite entry, or of `floor` if that is larger; NaN and
    infinity must stand in the same places, and shape and dtype be the same.

    >>> agree(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0]))
    True
    >>> agree(torch.tensor([1.0, 1e9]), torch.tensor([1.0, torch.inf]))
    False
    """
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    finite = theirs[torch.isfinite(theirs)]
    scale = max(finite.abs().max().item(), floor) if finite.numel() else floor
    tolerance = torch.finfo(ours.dtype).eps ** 0.5 * scale
    return torch.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True)


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
