"""Choose the device of tensors that name none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

CPU = torch.device("cpu")


def default_device() -> torch.device:
    """Return the device of tensors that name none.

    torch 2.6 raises where it is asked after ``torch.set_default_device(None)``.

    >>> default_device()
    device(type='cpu')
    """
    try:
        return torch.get_default_device()
    except AttributeError:
        return torch.empty(0).device


def own_tensors() -> AbstractContextManager[object]:
    """Make own tensors that name no device on the CPU, whatever `torch.set_default_device` said.

    >>> with torch.device("meta"), own_tensors():
    ...     torch.zeros(1)
    tensor([0.])
    """
    return nullcontext() if default_device() == CPU else CPU


def tensors_of_users(device: torch.device) -> AbstractContextManager[object]:
    """Make the tensors of a user's function on the device that the user has made the default.

    >>> with own_tensors(), tensors_of_users(torch.device("meta")):
    ...     torch.zeros(1).device
    device(type='meta')
    """
    return nullcontext() if device == CPU else device
