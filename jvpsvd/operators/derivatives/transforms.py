"""How the derivative of a function at a point is applied to a batch of directions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.arguments import dense_tensor
from jvpsvd.errors import AdjointError, ArgumentError
from jvpsvd.operators.derivatives.adjoint_test import check_adjoint
from jvpsvd.operators.derivatives.differences import direction, refuse_hidden
from jvpsvd.operators.derivatives.linear_map import (
    LinearMap,
    _refuse_another,
    refused_once_changed,
    without_grad,
)
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.evaluate import check_output, prepare
from jvpsvd.operators.function.failures import failures_named, known_remedy, remedy_at


def by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True) -> LinearMap:
    """Return the derivative of fn at x by the transforms of torch.func.

    The reverse side is ``vmap(vjp)``: fn is evaluated once and its activations are kept. The
    forward side is ``vmap(jvp)``, which evaluates fn again for each batch (once a batch, not once a
    vector); where an operation of fn has no forward mode, or fn looks at its values, it is two
    reverse passes, J v = ∂/∂u ⟨J' u, v⟩. `jvpsvd.operators.Trace` evaluates fn once for both sides.

    Args:
        fn: The function.
        x: The point.
        check: Compare the two sides on one pair of directions, and products that vanish with
            differences of fn.

    Raises:
        ArgumentError: If fn has neither forward mode nor a second reverse pass.
        ModelError: If fn fails at x.
        AdjointError: If the two sides are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.

    >>> J = by_transforms(torch.sin, torch.zeros(2))
    >>> J.push(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_function(fn)
    x = dense_tensor("the point x", x).detach()
    with failures_named("fn", partial(remedy_at, fn, x)):
        try:
            return _by_transforms(prepare(fn), x, check)
        except RuntimeError:
            with torch.no_grad():
                check_output(prepare(fn)(x))  # under vjp a nested tensor does not look like one
            raise


def _by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, check: bool) -> LinearMap:
    elsewhere = partial(by_transforms, fn, check=False)
    value, pull = vjp(lambda z: check_output(fn(z)), x)[:2]

    def pull_one(u: Tensor) -> Tensor:
        cotangent: Tensor = pull(u)[0]
        return cotangent

    value = value.detach()
    J = LinearMap(
        point=x,
        value=value,
        push=_forward_side(fn, x, value, pull_one, check),
        pull=refused_once_changed(fn, x, value, vmap(pull_one)),
        at=elsewhere,
    )
    if check:
        image = J.push(direction(x)[None])[0]
        refuse_hidden(fn, x, value, image, lambda z: by_transforms(fn, z, check=False).push)
    return J


def _forward_side(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    pull_one: Callable[[Tensor], Tensor],
    check: bool,
) -> Callable[[Tensor], Tensor]:
    """Return the first way of taking J v that works on a block."""
    out_dims: Any = (None, 0)  # the value does not depend on the direction
    over_directions = vmap(partial(_value_and_tangent, fn, x), out_dims=out_dims)
    over_cotangents = without_grad(vmap(pull_one))  # the reverse side as it will be used

    def push(block: Tensor) -> Tensor:
        with torch.no_grad():
            again, images = over_directions(block)
        _refuse_another(again, value)
        return images

    reasons = []
    v, u = direction(x), direction(value)
    try:
        image = push(v[None])[0]
    except ArgumentError:
        raise
    except Exception as error:  # torch raises what the operation at fault raises
        reasons.append(str(error))
    else:
        if check:
            coimage = over_cotangents(u[None])[0]
            check_adjoint(v, image, u, coimage, fn, x)
        return push
    try:
        pull_again = vjp(pull_one, torch.zeros_like(value))[1]
        push_again = refused_once_changed(fn, x, value, vmap(lambda v: pull_again(v)[0]))
        v = over_cotangents(u[None])[0]  # J v = 0 only where J' u is
        check_adjoint(v, push_again(v[None])[0], u, v)
    except AdjointError:
        reasons.append("its backward cannot be differentiated")
    except Exception as error:
        reasons.append(str(error))
    else:
        return push_again
    raise without_derivative(forward=reasons[0], reverse=reasons[1])


def _value_and_tangent(
    fn: Callable[[Tensor], Tensor], x: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    value, tangent = jvp(fn, (x,), (v,))[:2]
    return value, tangent


def without_derivative(reverse: str, forward: str | None = None) -> ArgumentError:
    """Return the error that says why J v cannot be had.

    Args:
        reverse: Why there is no second reverse pass.
        forward: Why there is no forward mode; None where that was not the question.

    >>> str(without_derivative("sort has no derivative"))
    'fn has no second reverse pass (sort has no derivative); replace the operation that is named'
    """
    second = " ".join(reverse.split())[:200]
    lacking = f"no second reverse pass ({second})"
    if forward is not None:
        first = " ".join(forward.split())[:200]
        lacking = f"neither forward mode ({first}) nor a second reverse pass ({second})"
    remedy = known_remedy(reverse) or "replace the operation that is named"
    return ArgumentError(f"fn has {lacking}; {remedy}")
