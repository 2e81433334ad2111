"""Attention in the form that has derivatives of every kind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_lock = threading.Lock()
_restore = ExitStack()
_inside = 0


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Let attention be computed by operations that have forward mode and a second reverse pass.

    The fused kernels of scaled dot-product attention have neither, nor has the fast path of
    evaluated transformer layers. Values differ by rounding. The settings belong to the process:
    the first to enter switches them, in whatever thread, and the last to leave restores them.

    >>> with differentiable_attention():
    ...     torch.backends.mha.get_fastpath_enabled()
    False
    """
    global _inside
    with _lock:
        if _inside == 0:
            _switch(_restore)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _restore.close()


def _switch(restore: ExitStack) -> None:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    restore.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
    torch.backends.mha.set_fastpath_enabled(False)
    restore.enter_context(sdpa_kernel(SDPBackend.MATH))
