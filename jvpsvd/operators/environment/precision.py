"""Products in the precision of their dtype, whatever the process allows elsewhere."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from jvpsvd.operators.environment.advice import keep_back_advice
from jvpsvd.operators.environment.process_setting import ProcessSetting


def full_precision() -> ProcessSetting:
    """Compute float32 in float32: no TF32 on GPUs, no bfloat16 inside matrix products on CPUs.

    TF32 keeps three digits, and torch allows it for convolutions by default: a residual could
    not fall below 1e-3 of s₁.

    >>> torch.set_float32_matmul_precision("medium")
    >>> with full_precision():
    ...     torch.backends.mkldnn.matmul.fp32_precision
    'ieee'
    >>> torch.get_float32_matmul_precision()
    'medium'
    >>> torch.set_float32_matmul_precision("highest")
    """
    return _FULL


def choose_precision(tf32: bool) -> ProcessSetting:
    """Return the context of products: as the process has it with `tf32`, else in full precision."""
    return _AS_IT_IS if tf32 else full_precision()


def _switch(restore: ExitStack) -> None:
    keep_back_advice(restore)
    for owner, name, exact in _settings():
        before = getattr(owner, name)
        if before != exact:
            restore.callback(setattr, owner, name, before)
            setattr(owner, name, exact)


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


_FULL = ProcessSetting(_switch)
_AS_IT_IS = ProcessSetting(keep_back_advice)
