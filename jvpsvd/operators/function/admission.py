"""Refuse functions and networks that cannot be differentiated, before any work."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from jvpsvd.errors import ArgumentError, ModelError
from jvpsvd.operators.environment.autocast import refuse_autocast
from jvpsvd.operators.environment.compilation import uncompiled
from jvpsvd.operators.environment.process_groups import refuse_tensor_parallel
from jvpsvd.operators.function.training_mode import refuse_training_mode


def check_function(fn: object, dtype: torch.dtype | None = None) -> None:
    """Check that fn can be called, and, if it is a network, that it has a Jacobian.

    Args:
        fn: The function.
        dtype: The dtype that its weights are converted to.

    Raises:
        ArgumentError: If it is no function, or autocast is on around the call.
        ModelError: As `check_network`.

    >>> check_function(3.0)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: fn is a float; give a function of the point, or a module
    """
    if isinstance(fn, nn.Module):
        check_network(fn, replace_weights=dtype is not None)
        refuse_weights_without_values(fn)
        return
    refuse_autocast("cpu", "cuda")
    _refuse_exported_program(fn)
    if not callable(fn) or isinstance(fn, type):
        what = f"the class {fn.__name__}" if isinstance(fn, type) else f"a {type(fn).__name__}"
        raise ArgumentError(f"fn is {what}; give a function of the point, or a module")


def check_network(model: object, *, replace_weights: bool = False) -> None:
    """Check that the model is a network with weights, and a function of its input alone.

    Args:
        model: Any module, compiled, scripted and exported ones among them.
        replace_weights: Whether it is to be called with other weights than its own.

    Raises:
        ArgumentError: If autocast is on around the call.
        ModelError: If it is no module, is in training mode (see `refuse_training_mode`), is spread
            over ranks by tensor parallelism, has weights without a shape, is a scripted module
            that is to be given other weights, or one made of kernels without a derivative.

    >>> check_network(nn.Linear)
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: the model is a type; give a torch.nn.Module
    """
    _refuse_exported_program(model)
    _check_module(model)
    refuse_autocast("cpu", "cuda")
    model = uncompiled(model)  # type: ignore[arg-type]
    refuse_training_mode(model)
    refuse_tensor_parallel(model)
    if replace_weights:
        refuse_scripted(model, "given other weights")
    _refuse_kernels_of_inference(model)
    _refuse_weights_without_shape(model)


def refuse_weights_without_values(model: nn.Module) -> None:
    """Check that every weight has a shape, and none is on the meta device, without values.

    Raises:
        ModelError: Naming the first that is.

    >>> refuse_weights_without_values(nn.Linear(2, 2, device="meta"))
    Traceback (most recent call last):
    jvpsvd.errors.ModelError: 'weight' of Linear is on the meta device and holds no values; ...
    """
    _check_module(model)
    _refuse_weights_without_shape(model)
    for weight, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"'{weight}' of {type(model).__name__} is on the meta device and holds no values; "
                "load the weights after model.to_empty(device=…)"
            )


def refuse_scripted(model: nn.Module, what: str) -> None:
    """Check that no part of the model was made by torch.jit.

    Raises:
        ModelError: Naming the first that was, and what cannot be done with it.

    >>> refuse_scripted(nn.Linear(2, 2), "cut")
    """
    _check_module(model)
    scripted = describe_scripted_part(model, what)
    if scripted is not None:
        raise ModelError(scripted)


def describe_scripted_part(model: nn.Module, what: str) -> str | None:
    """Return what to say of the first part of a model that torch.jit made; None if there is none.

    >>> print(describe_scripted_part(nn.Linear(2, 2), "cut"))
    None
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            return (
                f"module '{name or 'model'}' is scripted, traced or frozen by torch.jit and cannot "
                f"be {what}; pass the module that it was made from"
            )
    return None


def _refuse_kernels_of_inference(model: nn.Module) -> None:
    """Refuse convolutions of oneDNN, which torch.jit.optimize_for_inference puts in."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and _calls_onednn(module):
            raise ModelError(
                f"module '{name or 'model'}' was made by torch.jit.optimize_for_inference, whose "
                "kernels have no derivative; pass the module that it was made from, or "
                "torch.jit.freeze of that"
            )


def _calls_onednn(module: torch.jit.ScriptModule) -> bool:
    try:
        nodes = module.graph.nodes()
    except RuntimeError:  # it has no forward
        return False
    return any("mkldnn" in node.kind() for node in nodes)


def _refuse_weights_without_shape(model: nn.Module) -> None:
    for weight, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"'{weight}' of {type(model).__name__} has no shape before the first call; call "
                "the model once"
            )


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module")


def _refuse_exported_program(fn: object) -> None:
    if type(fn).__name__ == "ExportedProgram":
        raise ModelError("an ExportedProgram cannot be called; pass program.module()")
