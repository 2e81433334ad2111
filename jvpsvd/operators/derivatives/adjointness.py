"""The adjoint test: JVPs and VJPs must be products of one matrix and its transpose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from jvpsvd.errors import AdjointError
from jvpsvd.operators.derivatives.differences import is_constant
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.scaling import row_norms

# Products that differ by less than this share may do so by rounding, where f loses most digits.
_ROUNDING_SHARE = 0.05


def check_adjoint(
    v: Tensor,
    image: Tensor,
    u: Tensor,
    coimage: Tensor,
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
        coimage: J' u.
        fn: The function, to find the cause in; None to give no cause.
        x: The point.

    Raises:
        AdjointError: If the two differ by more than rounding.

    >>> v = torch.ones(2)
    >>> check_adjoint(v, image=2 * v, u=v, coimage=2 * v)
    """
    by_jvp, by_vjp = (image * u).sum(), (v * coimage).sum()
    norms = [row_norms(block.flatten()) for block in (image, u, v, coimage)]
    scale = torch.maximum(norms[0] * norms[1], norms[2] * norms[3])
    # Smaller products have few digits, or none.
    least = torch.finfo(u.dtype).tiny / torch.finfo(u.dtype).eps * norms[1]
    # NaN passes: a product that is not finite is an error of its own.
    if (by_jvp - by_vjp).abs() > torch.finfo(u.dtype).eps ** 0.5 * torch.maximum(scale, least):
        if fn is not None and x is not None and is_constant(fn, x, scale / norms[1]):
            return  # a derivative that is rounding, such as that of a sum of softmax values
        # What stops both products, a detach, cannot make them differ.
        seen = [] if fn is None or x is None else find_obstacles(fn, x)
        found = [cause for cause in seen if cause.startswith(("torch.", "autocast"))]
        remedy = f"take {' and '.join(found)} out of fn, or " if found else ""
        if (by_jvp - by_vjp).abs() < _ROUNDING_SHARE * scale and u.dtype != torch.float64:
            remedy += "use float64, should this be rounding, or "
        raise AdjointError(
            f"forward and reverse derivative are not of one matrix: <J v, u> = {by_jvp:.6g}, "
            f"<v, J' u> = {by_vjp:.6g}; {remedy}check the backward and jvp of custom functions, "
            "and hooks on gradients; where there are none, report the network to torch: one of its "
            "own derivatives is wrong"
        )
