"""The derivative of a function at a point by the transforms of torch.func."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from jvpsvd.arguments import dense_tensor, said
from jvpsvd.errors import AdjointError, ArgumentError
from jvpsvd.operators.derivatives.adjointness import check_adjoint
from jvpsvd.operators.derivatives.differences import (
    direction,
    output_direction,
    probe_block,
    refuse_hidden,
)
from jvpsvd.operators.derivatives.linear_map import (
    LinearMap,
    disable_grad,
    refuse_after_change,
    refuse_another_value,
)
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.function.admission import check_function
from jvpsvd.operators.function.evaluate import check_output, prepare
from jvpsvd.operators.function.failures import failures_named, find_remedy, remedy_at
from jvpsvd.operators.function.lower_precision import Rounding
from jvpsvd.operators.function.restoring import restored


def by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, *, check: bool = True) -> LinearMap:
    """Return the derivative of fn at x by the transforms of torch.func.

    VJPs are ``vmap(vjp)``: fn is evaluated once and its activations are kept. JVPs are
    ``vmap(jvp)``, which evaluates fn again for each block (once a block, not once a vector). Where
    an operation of fn has no forward mode, or fn reads its values, a JVP is two reverse passes,
    J v = ∂/∂u ⟨J' u, v⟩. `jvpsvd.operators.Trace` evaluates fn once for both products.

    Args:
        fn: The function.
        x: The point.
        check: Compare one JVP with one VJP, and products that vanish with differences of fn.

    Raises:
        ArgumentError: If fn has neither forward mode nor a second reverse pass.
        ModelError: If fn fails at x.
        AdjointError: If JVPs and VJPs are not of one matrix.
        DerivativeError: If products vanish although fn moves in proportion to the step.

    >>> J = by_transforms(torch.sin, torch.zeros(2))
    >>> J.jvp(torch.eye(2))
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_function(fn)
    x = dense_tensor("the point x", x).detach()
    # oneDNN's LSTM keeps what its derivative needs only where gradients are on, as in no solve.
    gradients = torch.enable_grad()
    with restored(fn, x.device), failures_named("fn", partial(remedy_at, fn, x)), gradients:
        try:
            return _by_transforms(prepare(fn), x, check)
        except RuntimeError:
            with torch.no_grad():
                check_output(prepare(fn)(x))  # under vjp a nested tensor seems a dense one
            raise


def _by_transforms(fn: Callable[[Tensor], Tensor], x: Tensor, check: bool) -> LinearMap:
    elsewhere = partial(by_transforms, fn, check=False)
    value, vjp_fn = vjp(lambda z: check_output(fn(z)), x)[:2]

    def vjp_of_one(u: Tensor) -> Tensor:
        product: Tensor = vjp_fn(u)[0]
        return product

    value = value.detach()
    product, probed = _make_jvp(fn, x, value, vjp_of_one, check)
    J = LinearMap(
        point=x,
        value=value,
        jvp=product,
        vjp=refuse_after_change(fn, x, value, vmap(vjp_of_one)),
        at=elsewhere,
        probed=probed,
    )
    if check:
        image = product(direction(x)[None])[0] if probed is None else probed[1]
        refuse_hidden(fn, x, value, image, lambda z: by_transforms(fn, z, check=False).jvp)
    return J


def _make_jvp(
    fn: Callable[[Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    vjp_of_one: Callable[[Tensor], Tensor],
    check: bool,
) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """Return the first way of taking J v that works on a block, and J times `probe_block(x)`.

    The latter is None where it was not needed to find that out, and without `check`.
    """
    out_dims: Any = (None, 0)  # the value does not depend on the direction
    jvps_of_block = vmap(partial(_value_and_jvp, fn, x), out_dims=out_dims)
    vjps_of_block = disable_grad(vmap(vjp_of_one))  # VJPs as they will be used

    @in_one_thread
    def by_forward_mode(block: Tensor) -> Tensor:
        with torch.no_grad():
            again, images = jvps_of_block(block)
        refuse_another_value(again, value, eps_at_x)
        return images

    eps_at_x = partial(Rounding(fn).eps_at, x)
    reasons = []
    probes, u = probe_block(x), output_direction(value)
    try:
        images = by_forward_mode(probes if check else probes[1:])
    except ArgumentError:
        raise
    except Exception as error:  # torch raises what the operation at fault raises
        reasons.append(said(error))
    else:
        if check:
            check_adjoint(probes[1], images[1], u, vjps_of_block(u[None])[0], fn, x)
        return by_forward_mode, images if check else None
    try:
        vjp_of_vjp = vjp(vjp_of_one, torch.zeros_like(value))[1]
        by_two_passes = refuse_after_change(fn, x, value, vmap(lambda v: vjp_of_vjp(v)[0]))
        v = vjps_of_block(u[None])[0]  # J v = 0 only where J' u is
        check_adjoint(v, by_two_passes(v[None])[0], u, v, fn, x)
    except AdjointError:
        reasons.append("its backward cannot be differentiated")
    except Exception as error:
        reasons.append(said(error))
    else:
        return by_two_passes, None
    raise missing_derivative(forward=reasons[0], reverse=reasons[1])


def _value_and_jvp(fn: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    value, image = jvp(fn, (x,), (v,))[:2]
    return value, image


def missing_derivative(reverse: str, forward: str | None = None) -> ArgumentError:
    """Return the error that says why J v cannot be had.

    Args:
        reverse: Why there is no second reverse pass.
        forward: Why there is no forward mode; None where that was not the question.

    >>> str(missing_derivative("sort has no derivative"))
    'fn has no second reverse pass (sort has no derivative); replace the operation that is named'
    """
    second = " ".join(reverse.split())[:200]
    missing = f"no second reverse pass ({second})"
    if forward is not None:
        first = " ".join(forward.split())[:200]
        missing = f"neither forward mode ({first}) nor a second reverse pass ({second})"
    remedy = find_remedy(reverse) or "replace the operation that is named"
    return ArgumentError(f"fn has {missing}; {remedy}")
