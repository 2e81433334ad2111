"""Refuse to compute under autocast, which takes products in half precision."""

from __future__ import annotations

import torch

from jvpsvd.errors import ArgumentError


def refuse_autocast(*kinds: str) -> None:
    """Check that the caller is outside of `torch.autocast`.

    A function that is differentiated may enter it: it is then what the function computes.

    Args:
        kinds: Of devices, as "cpu" or "cuda".

    Raises:
        ArgumentError: If it is enabled for one of them.

    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     refuse_autocast("cpu")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: torch.autocast computes in bfloat16 here; call this outside of ...
    """
    for kind in kinds:
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = str(torch.get_autocast_dtype(kind)).removeprefix("torch.")
            raise ArgumentError(
                f"torch.autocast computes in {dtype} here; call this outside of torch.autocast; fn "
                "may use it inside"
            )
