"""Recurrent layers in the form that has derivatives of every kind.

oneDNN computes a float32 LSTM on CPUs in one operation that has neither forward mode nor a rule for
vmap. cuDNN's recurrent layers have no second reverse pass either.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from jvpsvd.operators.environment.process_setting import ProcessSetting

_LAYERS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def differentiable_recurrence() -> ProcessSetting:
    """Let LSTM, GRU and RNN be computed by plain operations; values differ by rounding.

    >>> lstm = torch.nn.LSTM(3, 2)
    >>> step = lambda x: lstm(x)[0]
    >>> with differentiable_recurrence(), torch.no_grad():
    ...     torch.func.jvp(step, (torch.ones(4, 3),), (torch.ones(4, 3),))[1].shape
    torch.Size([4, 2])
    """
    return _PLAIN


def _switch(restore: ExitStack) -> None:
    owners: tuple[Any, ...] = (torch, torch._VF)  # in the latter torch.nn looks them up
    for owner, name in product(owners, _LAYERS):
        original = getattr(owner, name)
        restore.callback(setattr, owner, name, original)
        setattr(owner, name, partial(_call_plainly, original))


def _call_plainly(original: Callable[..., Any], sequence: Tensor, *args: Any, **named: Any) -> Any:
    if not args:  # all by name, as torch.nn does not
        with _NO_LIBRARIES:
            return original(sequence, **named)
    packed = isinstance(args[0], Tensor) and not args[0].is_floating_point()  # lengths come first
    lengths, state, rest = args[:packed], args[packed], args[packed + 1 :]
    # Torch adds in place to what it makes of the state, which transforms refuse of a constant.
    state = tree_map_only(Tensor, lambda part: sequence.new_zeros(part.shape) + part, state)
    with _NO_LIBRARIES:
        return original(sequence, *lengths, state, *rest, **named)


def _switch_libraries_off(restore: ExitStack) -> None:
    """Switch oneDNN and cuDNN off, for the layer alone: convolutions are slow without."""
    of_torch: Any = torch._C
    for name in ("mkldnn", "cudnn"):
        switch = getattr(of_torch, f"_set_{name}_enabled")
        restore.callback(switch, getattr(of_torch, f"_get_{name}_enabled")())
        switch(False)


_PLAIN = ProcessSetting(_switch)
_NO_LIBRARIES = ProcessSetting(_switch_libraries_off)
