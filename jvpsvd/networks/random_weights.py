"""Weights drawn anew, for networks that trained ones are compared with."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.errors import ModelError
from jvpsvd.networks.photo_input import PhotoInput
from jvpsvd.networks.published import first_of
from jvpsvd.operators import full_precision, restored

logger = logging.getLogger(__name__)

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
    Each batch norm takes those of what reaches it, after the ones before it have theirs. A network
    that fails at such photos takes none, and stays as it is.

    Args:
        module: The network, in evaluation mode.
        photo_input: What it takes.
        seed: Seed of the noise: each value of a pixel is drawn uniformly from 0 to 255.
    """
    norms = [part for part in module.modules() if _has_running_statistics(part)]
    if not norms:
        return
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def take_statistics(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(iter((*args, *kwargs.values())), None)
        mean, variance = part.get_buffer("running_mean"), part.get_buffer("running_var")
        if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1] != len(mean):
            return  # it normalises something else
        values = x.transpose(0, 1).flatten(1)  # (channels, photos and positions)
        seen[part] = values.mean(1), values.var(1)
        mean.copy_(seen[part][0])
        variance.copy_(seen[part][1])

    first = next(module.parameters(), torch.empty(0))
    with restored(module), torch.no_grad(), full_precision():
        for part in norms:
            part.register_forward_pre_hook(take_statistics, with_kwargs=True)
        try:
            module(_noise(photo_input, seed).to(first))
        except Exception as error:  # the user's own code
            logger.info("batch norms keep their initial statistics: %s", first_of(error))
            return
    with torch.no_grad():
        for part, (mean, variance) in seen.items():
            part.get_buffer("running_mean").copy_(mean)
            part.get_buffer("running_var").copy_(variance)


def _has_running_statistics(part: nn.Module) -> bool:
    """Return whether it normalises by stored statistics; torch, timm and torchvision name them."""
    kept = (getattr(part, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(each, Tensor) and each.ndim == 1 for each in kept) and not isinstance(
        part, nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d
    )


def _noise(photo_input: PhotoInput, seed: int) -> Tensor:
    """Return photos of uniform noise, as the network takes photos."""
    shape = _PHOTOS, *photo_input.shape[1:]
    pixels = 255 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    mean, std = torch.tensor(photo_input.mean), torch.tensor(photo_input.std)
    return (pixels / photo_input.scale - mean[:, None, None]) / std[:, None, None]
