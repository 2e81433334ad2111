"""Modules whose output is random or changes from call to call while they are in training mode."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from jvpsvd.errors import ModelError


def refuse_training_mode(model: nn.Module) -> None:
    """Check that the model is a function of its input alone.

    A model in training mode whose layers do not care (linear, ReLU, …) passes; one with active
    dropout or batch statistics has no Jacobian to speak of.

    Raises:
        ModelError: Naming the first module that is random or couples samples.

    >>> refuse_training_mode(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: module '1' (Dropout) is in training mode; call model.eval() first
    """
    for name, module in model.named_modules():
        if module.training and _depends_on_mode(module):
            raise ModelError(
                f"module '{name or 'model'}' ({type(module).__name__}) is in training mode; "
                "call model.eval() first"
            )


def _depends_on_mode(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _BatchNorm | nn.RReLU):
        return True
    # Attention and recurrent layers hold their dropout as a number, not as a module.
    rate = getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0
