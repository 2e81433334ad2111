"""Weights drawn anew, for networks that trained ones are compared with."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.errors import ModelError
from jvpsvd.networks.photo_input import PhotoInput
from jvpsvd.networks.published import first_of

# Photos whose mean and variance batch norms take: a guess. Where one position is left of each
# photo, a variance of so many is right to a third.
_PHOTOS = 16


def initialise_again(module: nn.Module, spec: str) -> None:
    """Draw the weights of a module anew, as torch does.

    Raises:
        ModelError: If a part of it holds parameters and cannot draw them.
    """
    for name, part in module.named_modules():
        reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
        if reset is not None:
            reset()
        elif next(part.parameters(recurse=False), None) is not None:
            raise ModelError(
                f"'{name or 'model'}' ({type(part).__name__}) of {spec} has no reset_parameters, "
                "so that its weights cannot be drawn anew; give it one, or let the factory do so"
            )


def set_running_statistics(module: nn.Module, photo_input: PhotoInput, seed: int) -> None:
    """Set the running means and variances of batch norms to those of photos of noise.

    Initialised ones are 0 and 1, with which the activations of a deep network vanish or explode.
    Each batch norm takes those of what reaches it, after the ones before it have theirs.

    Args:
        module: The network, in evaluation mode.
        photo_input: What it takes.
        seed: Seed of the noise: each value of a pixel is drawn uniformly from 0 to 255.

    Raises:
        ModelError: If the network cannot be evaluated at such photos.
    """
    norms = [part for part in module.modules() if _has_running_statistics(part)]
    if not norms:
        return
    first = next(module.parameters(), torch.empty(0))
    with ExitStack() as stack, torch.no_grad():
        for part in norms:
            stack.callback(part.register_forward_pre_hook(_take_statistics).remove)
        try:
            module(_noise(photo_input, seed).to(first))
        except Exception as error:  # the user's own code
            raise ModelError(
                "batch norms of random weights take their means and variances of photos of noise, "
                f"at which {type(module).__name__} fails: {first_of(error)}; let a factory return "
                "what it takes beside it, a PhotoInput or Inputs"
            ) from error


def _has_running_statistics(part: nn.Module) -> bool:
    """Return whether it normalises by stored statistics; torch, timm and torchvision name them."""
    return isinstance(getattr(part, "running_mean", None), Tensor) and not isinstance(
        part, nn.modules.instancenorm._InstanceNorm
    )


def _take_statistics(part: nn.Module, inputs: tuple[Any, ...]) -> None:
    x = inputs[0].transpose(0, 1).flatten(1)  # (channels, photos and positions)
    part.get_buffer("running_mean").copy_(x.mean(1))
    part.get_buffer("running_var").copy_(x.var(1))


def _noise(photo_input: PhotoInput, seed: int) -> Tensor:
    """Return photos of uniform noise, as the network takes photos."""
    shape = _PHOTOS, *photo_input.shape[1:]
    pixels = 255 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    mean, std = torch.tensor(photo_input.mean), torch.tensor(photo_input.std)
    return (pixels / photo_input.scale - mean[:, None, None]) / std[:, None, None]
