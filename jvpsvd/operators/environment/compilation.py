"""Compiled functions run as they were written: what `torch.compile` makes has no forward mode."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import torch
from torch import nn

from jvpsvd.operators.environment.process_setting import ProcessSetting


def eager_execution() -> ProcessSetting:
    """Run whatever `torch.compile` was called on as if it had not been.

    >>> double = torch.compile(lambda x: 2 * x, backend="eager")
    >>> with eager_execution():
    ...     torch.func.jvp(double, (torch.ones(2),), (torch.ones(2),))[1]
    tensor([2., 2.])
    """
    return _EAGER


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that a compiled module was made from, or the module itself.

    >>> net = nn.Linear(2, 2)
    >>> uncompiled(torch.compile(net, backend="eager")) is net, uncompiled(net) is net
    (True, True)
    """
    original = getattr(module, "_orig_mod", None)
    return uncompiled(original) if isinstance(original, nn.Module) else module


def _switch(restore: ExitStack) -> None:
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:  # nothing has been compiled
        return
    restore.enter_context(torch.compiler.set_stance("force_eager"))
    # Or a recording is taken for torch.fx at work on a compiled function.
    restore.enter_context(dynamo.config.patch(error_on_nested_fx_trace=False))


_EAGER = ProcessSetting(_switch)
