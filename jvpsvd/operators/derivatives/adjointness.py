"""The adjoint test: JVPs and VJPs must be products of one matrix and its transpose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from jvpsvd.errors import AdjointError
from jvpsvd.operators.derivatives.differences import direction, is_constant, output_direction
from jvpsvd.operators.function.lower_precision import eps_of_tests, find_lower_precision
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.scaling import row_norms

# Products that differ by less than this share may do so by rounding, where f loses most digits.
_ROUNDING_SHARE = 0.05
# A point beside x differs from it by this share of a typical entry: a guess.
_BESIDE = 2.0**-10
_AT_A_KINK = (
    "beside x they are, so that x lies at a kink of fn, where torch's forward and reverse mode may "
    "take different slopes (of prelu, fmax, clamp by a tensor, a custom function): move x a "
    "little, or write that operation with torch.where"
)


def check_adjoint(
    v: Tensor,
    image: Tensor,
    u: Tensor,
    adjoint_product: Tensor,
    fn: Callable[[Tensor], Tensor] | None = None,
    x: Tensor | None = None,
) -> None:
    """Check ⟨J v, u⟩ = ⟨v, J' u⟩ for one pair of directions.

    A backward pass written by hand may be no adjoint. One that torch does not see as a function of
    u leaves J v = 0 when it is differentiated again. Forward mode ignores torch.no_grad,
    reverse mode does not.

    Args:
        v: A direction in the input.
        image: J v.
        u: A direction in the output.
        adjoint_product: J' u.
        fn: The function, to find the cause in; None to give no cause.
        x: The point.

    Raises:
        AdjointError: If the two differ by more than rounding.

    >>> v = torch.ones(2)
    >>> check_adjoint(v, image=2 * v, u=v, adjoint_product=2 * v)
    """
    by_jvp, by_vjp = (image * u).sum(), (v * adjoint_product).sum()
    off = (by_jvp - by_vjp).abs()
    norms = [row_norms(block.flatten()) for block in (image, u, v, adjoint_product)]
    scale = torch.maximum(norms[0] * norms[1], norms[2] * norms[3])
    # Smaller products have few digits, or none.
    least = torch.finfo(u.dtype).tiny / torch.finfo(u.dtype).eps * norms[1]
    allowed = torch.maximum(scale, least)
    # NaN passes: a product that is not finite is an error of its own.
    if not off > torch.finfo(u.dtype).eps ** 0.5 * allowed:
        return
    lower, seen = None, []
    if fn is not None and x is not None:
        lower = find_lower_precision(fn, x)
        eps = eps_of_tests(lower, x.dtype)
        if eps is not None and off <= eps**0.5 * allowed:
            return
        if is_constant(fn, x, scale / norms[1]):
            return  # a derivative that is rounding, such as that of a sum of softmax values
        # What stops both products, a detach, cannot make them differ.
        seen = find_obstacles(fn, x)
    found = [cause for cause in seen if cause.startswith(("torch.", "autocast"))]
    if fn is not None and x is not None and not found and _is_at_kink(fn, x, off):
        raise AdjointError(f"{_describe(by_jvp, by_vjp)}; {_AT_A_KINK}")
    remedy = f"take {' and '.join(found)} out of fn, or " if found else ""
    if lower is not None and not found:
        remedy += f"let fn compute in x.dtype, not in {lower.dtype}{lower.place}, or "
    elif off < _ROUNDING_SHARE * scale and u.dtype != torch.float64:
        remedy += "use float64, should this be rounding, or "
    raise AdjointError(
        f"{_describe(by_jvp, by_vjp)}; {remedy}check the backward and jvp of custom functions, and "
        "hooks on gradients; where there are none, x may lie at a kink of fn: move it; or report "
        "the network to torch: one of its own derivatives is wrong"
    )


def _describe(by_jvp: Tensor, by_vjp: Tensor) -> str:
    products = show_apart(float(by_jvp), float(by_vjp))
    return (
        f"forward and reverse derivative are not of one matrix: <J v, u> = {products[0]}, "
        f"<v, J' u> = {products[1]}"
    )


def _is_at_kink(fn: Callable[[Tensor], Tensor], x: Tensor, off: Tensor) -> bool:
    """Return whether products that differ by this at x are of one matrix at a point beside it.

    What is rounding there does not count, as where the derivative is 0 at x.
    """
    along = direction(x)
    typical = x.abs().mean()
    beside = x + _BESIDE * torch.where(typical > 0, typical, 1.0) * along
    with suppress(Exception):  # what torch.func cannot take, or fn cannot there
        value, vjp_fn = torch.func.vjp(fn, beside)[:2]
        u = output_direction(value)
        image, adjoint_product = torch.func.jvp(fn, (beside,), (along,))[1], vjp_fn(u)[0]
        off_beside = ((image * u).sum() - (along * adjoint_product).sum()).abs()
        norms = [row_norms(block.flatten()) for block in (image, u, along, adjoint_product)]
        scale = torch.maximum(norms[0] * norms[1], norms[2] * norms[3])
        rounding = torch.finfo(u.dtype).eps ** 0.5 * scale
        return bool(off_beside <= rounding) and bool(off > rounding)
    return False


def show_apart(a: float, b: float) -> tuple[str, str]:
    """Return two numbers in six digits, or in as many as show that they differ.

    >>> show_apart(1 / 3, 1 / 3 + 1e-9)
    ('0.333333333', '0.333333334')
    """
    for digits in range(6, 18):
        shown = f"{a:.{digits}g}", f"{b:.{digits}g}"
        if shown[0] != shown[1]:
            break
    return shown
