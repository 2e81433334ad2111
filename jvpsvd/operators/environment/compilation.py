"""Compiled functions run as they were written: what `torch.compile` makes has no forward mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn

from jvpsvd.operators.environment.process_setting import ProcessSetting


@contextmanager
def eager_execution() -> Iterator[None]:
    """Run whatever `torch.compile` was called on as if it had not been.

    >>> double = torch.compile(lambda x: 2 * x, backend="eager")
    >>> with eager_execution():
    ...     torch.func.jvp(double, (torch.ones(2),), (torch.ones(2),))[1]
    tensor([2., 2.])
    """
    with _FORCE_EAGER, _nested_traces():
        yield


def uncompiled(module: nn.Module) -> nn.Module:
    """Return the module that a compiled module was made from, or the module itself.

    >>> net = nn.Linear(2, 2)
    >>> uncompiled(torch.compile(net, backend="eager")) is net, uncompiled(net) is net
    (True, True)
    """
    original = getattr(module, "_orig_mod", None)
    return uncompiled(original) if isinstance(original, nn.Module) else module


def _switch(restore: ExitStack) -> None:
    if "torch._dynamo" in sys.modules:  # else nothing has been compiled
        restore.enter_context(torch.compiler.set_stance("force_eager"))


def _nested_traces() -> AbstractContextManager[None]:
    """Let a recording run compiled functions: torch takes it for torch.fx at work on them.

    That setting is the thread's own.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None or not dynamo.config.error_on_nested_fx_trace:
        return nullcontext()
    patch: AbstractContextManager[None] = dynamo.config.patch(error_on_nested_fx_trace=False)
    return patch


_FORCE_EAGER = ProcessSetting(_switch)
