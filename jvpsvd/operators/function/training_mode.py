"""Modules whose output may be random or change between calls while they are in training mode."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from jvpsvd.errors import ModelError


def refuse_training_mode(model: nn.Module) -> None:
    """Check that the model is a function of its input alone.

    A model in training mode passes if it is made of torch's own layers that do not care (linear,
    ReLU, …). One with active dropout or batch statistics has no Jacobian to speak of, and neither
    may one with a class from elsewhere, which can read its mode unseen.

    Raises:
        ModelError: Naming the first module that is random, couples samples or keeps statistics;
            failing that, the first in training mode that is no layer of torch.

    >>> refuse_training_mode(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: module '1' (Dropout) is in training mode; call model.eval() first
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module")
    training = [
        (name, module)
        for name, module in model.named_modules()
        if getattr(module, "training", False)  # one frozen by torch.jit has no mode
    ]
    # A layer that is known to care says more than the class around it.
    for cares in (_depends_on_mode, _from_elsewhere):
        for name, module in training:
            if cares(module):
                raise ModelError(
                    f"module '{name or 'model'}' ({type(module).__name__}) is in training mode; "
                    "call model.eval() first"
                )


def _depends_on_mode(module: nn.Module) -> bool:
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, _BatchNorm | nn.RReLU):
        return True
    if isinstance(module, _InstanceNorm):
        return module.track_running_stats
    # Attention and recurrent layers hold their dropout as a number, not as a module.
    rate = getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


def _from_elsewhere(module: nn.Module) -> bool:
    """Return whether any class of the module is not one of torch's layers.

    All its bases count: a parametrized class is made by torch out of the user's. A graph, such as
    `torch.export` makes, holds the operations of one mode, whatever it says of its own.
    """
    return not all(
        cls.__module__.startswith(("torch.nn.modules.", "torch.fx.graph_module", "torch.export."))
        for cls in type(module).__mro__
        if issubclass(cls, nn.Module)
    )
