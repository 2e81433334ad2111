"""Grouped matrix products, of mixtures of experts, in the form that has derivatives of every kind.

torch's `grouped_mm` has neither forward mode nor a rule for vmap, and takes no float64.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from jvpsvd.operators.environment.process_setting import ProcessSetting


def differentiable_grouped_products() -> ProcessSetting:
    """Let grouped products be computed by plain ones; values differ by rounding.

    >>> rows, experts = torch.ones(3, 2).double(), torch.stack([torch.eye(2), 5 * torch.eye(2)])
    >>> with differentiable_grouped_products():
    ...     torch._grouped_mm(rows, experts.double(), offs=torch.tensor([1, 3]))
    tensor([[1., 1.],
            [5., 5.],
            [5., 5.]], dtype=torch.float64)
    """
    return _PLAIN


def _switch(restore: ExitStack) -> None:
    for owner, name in ((torch, "_grouped_mm"), (torch.nn.functional, "grouped_mm")):
        original = getattr(owner, name, None)  # the second came with torch 2.10
        if original is not None:
            restore.callback(setattr, owner, name, original)
            setattr(owner, name, partial(_multiply, original))


def _multiply(
    original: Callable[..., Tensor],
    rows: Tensor,
    experts: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Multiply rows by the matrix of the expert that each has; row i < offs[e] is of e at most."""
    if rows.ndim != 2 or experts.ndim != 3 or offs is None or bias is not None:
        return original(rows, experts, offs=offs, bias=bias, out_dtype=out_dtype)
    index = torch.arange(len(rows), device=rows.device)
    number = (index[:, None] >= offs).sum(-1)  # of the expert; rows beyond the last are unspecified
    if len(rows) <= len(experts):
        chosen = experts[number.clamp(max=len(experts) - 1)]
        out = (rows[:, None] @ chosen)[:, 0]
    else:  # copies of matrices would be larger than all of them
        out = sum(
            ((number == e)[:, None] * rows) @ matrix for e, matrix in enumerate(experts.unbind())
        )  # type: ignore[assignment]
    return out.to(out_dtype or rows.dtype)


_PLAIN = ProcessSetting(_switch)
