"""Products in the precision of their dtype, whatever the process allows elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_restore = ExitStack()
_inside = 0


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 in float32: no TF32 on GPUs, no bfloat16 inside matrix products on CPUs.

    TF32 keeps three digits, and torch allows it for convolutions by default: a residual could
    not fall below 1e-3 of s₁. The settings belong to the process: the first to enter switches
    them, in whatever thread, and the last to leave restores them.

    >>> torch.set_float32_matmul_precision("medium")
    >>> with full_precision():
    ...     torch.backends.mkldnn.matmul.fp32_precision
    'ieee'
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision("highest")
    """
    global _inside
    with _lock:
        if _inside == 0:
            for owner, name, exact in _settings():
                before = getattr(owner, name)
                if before != exact:
                    _restore.callback(setattr, owner, name, before)
                    setattr(owner, name, exact)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore.close()


def _settings() -> list[tuple[Any, str, Any]]:
    """Return (owner, attribute, exact value) of each switch; their names changed with torch 2.9."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
    owners = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
    )
    return [(owner, "fp32_precision", "ieee") for owner in owners]
