"""Keep back what torch advises those who write its operations: users of products can do nothing."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch


def keep_back_advice(restore: ExitStack) -> None:
    """Keep back warnings of operations that vmap does one by one, and of torch.jit in torch itself.

    Args:
        restore: Is left with what lets the former be said again.

    >>> with ExitStack() as restore:
    ...     keep_back_advice(restore)
    ...     torch.func.vmap(torch.trace)(torch.ones(1, 2, 2))
    tensor([2.])
    """
    _load_forward_mode()
    functorch: Any = torch._C._functorch  # no other switch: it is said in C++
    functorch._set_vmap_fallback_warning_enabled(False)
    restore.callback(functorch._set_vmap_fallback_warning_enabled, True)


@cache
def _load_forward_mode() -> None:
    """Load what forward mode loads at its first use, and warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch._decomp.decompositions_for_jvp  # noqa: F401
