"""Attention in the form that has derivatives of every kind."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from jvpsvd.operators.environment.process_setting import ProcessSetting


def differentiable_attention() -> ProcessSetting:
    """Let attention be computed by operations that have forward mode and a second reverse pass.

    The fused kernels of scaled dot-product attention have neither, nor has the fast path of
    evaluated transformer layers. Values differ by rounding.

    >>> with differentiable_attention():
    ...     torch.backends.mha.get_fastpath_enabled()
    False
    """
    return _PLAIN_ATTENTION


def _switch(restore: ExitStack) -> None:
    fast_path = torch.backends.mha.get_fastpath_enabled()
    restore.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
    torch.backends.mha.set_fastpath_enabled(False)
    restore.enter_context(sdpa_kernel(SDPBackend.MATH))


_PLAIN_ATTENTION = ProcessSetting(_switch)
