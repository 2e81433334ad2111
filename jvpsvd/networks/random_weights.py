"""Weights drawn anew, for networks that trained ones are compared with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.errors import ModelError
from jvpsvd.networks.forward_pass import call, each_tensor
from jvpsvd.networks.inputs import Inputs
from jvpsvd.networks.photo_input import PhotoInput
from jvpsvd.networks.published import first_of
from jvpsvd.operators import full_precision, restored
from jvpsvd.text_table import count_noun

logger = logging.getLogger(__name__)

# Inputs whose mean and variance batch norms take: a guess. Where one position is left of each, a
# variance of so many is right to a third.
_INPUTS = 16


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


def set_running_statistics(module: nn.Module, taken: PhotoInput | Inputs, seed: int) -> None:
    """Set the running means and variances of batch norms to those of inputs of noise.

    Initialised ones are 0 and 1, with which the activations of a deep network vanish or explode.
    Each batch norm takes those of what reaches it, after the ones before it have theirs. A network
    that takes texts or whole numbers, or fails at noise, stays as it is, with a line in the log.

    Args:
        module: The network, in evaluation mode.
        taken: What it takes.
        seed: Seed of the noise. Each value of a pixel is drawn uniformly from 0 to 255; arrays,
            sounds and tensors are standard normal, of the shapes of the example.
    """
    norms = [part for part in module.modules() if _has_running_statistics(part)]
    if not norms:
        return
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    alone: set[nn.Module] = set()

    def take_statistics(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = next(iter((*args, *kwargs.values())), None)
        mean, variance = part.get_buffer("running_mean"), part.get_buffer("running_var")
        if not isinstance(x, Tensor) or x.ndim < 2 or x.shape[1] != len(mean):
            return  # it normalises something else
        values = x.transpose(0, 1).flatten(1)  # (channels, inputs and positions)
        if values.shape[1] < 2:  # one number has no variance
            alone.add(part)
            return
        seen[part] = values.mean(1), values.var(1)
        mean.copy_(seen[part][0])
        variance.copy_(seen[part][1])

    first = next(module.parameters(), torch.empty(0))
    with restored(module), torch.no_grad(), full_precision():
        for part in norms:
            part.register_forward_pre_hook(take_statistics, with_kwargs=True)
        try:
            noise = _noise(taken, seed)
            call(module, each_tensor(noise, lambda part: _like(part, first)))
        except Exception as error:  # the user's own code
            reason = str(error) if isinstance(error, ModelError) else first_of(error)
            logger.warning(
                "batch norms keep means of 0 and variances of 1, with which activations may vanish "
                "or explode: %s",
                reason,
            )
            return
    if alone:
        logger.warning(
            "means of 0 and variances of 1 stay in %s, with which activations may vanish or "
            "explode: a single number of noise reached them",
            count_noun(len(alone), "batch norm"),
        )
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


def _like(part: Tensor, weight: Tensor) -> Tensor:
    return part.to(weight) if part.is_floating_point() else part.to(weight.device)


def _noise(taken: PhotoInput | Inputs, seed: int) -> Any:
    """Return several inputs of noise as one, as the network takes them.

    Raises:
        ModelError: If there is no noise of such inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(taken, PhotoInput):
        return _photos(taken, generator)
    named = taken.example if isinstance(taken.example, Mapping) else {"": taken.example}
    if not any(isinstance(part, Tensor) and part.is_floating_point() for part in named.values()):
        raise ModelError(f".{taken.suffix} inputs hold no floating numbers to draw noise for")
    drawn = []
    for _ in range(_INPUTS):
        each = {name: _normal(part, generator) for name, part in named.items()}
        content = each if isinstance(taken.example, Mapping) else each[""]
        drawn.append(taken.arguments(content))
    return _in_one_batch(drawn)


def _photos(photo_input: PhotoInput, generator: torch.Generator) -> Tensor:
    """Return photos of uniform noise, as the network takes photos."""
    pixels = 255 * torch.rand(_INPUTS, *photo_input.shape[1:], generator=generator)
    mean, std = torch.tensor(photo_input.mean), torch.tensor(photo_input.std)
    return (pixels / photo_input.scale - mean[:, None, None]) / std[:, None, None]


def _normal(part: Any, generator: torch.Generator) -> Any:
    """Return standard normal numbers in place of floating ones."""
    if not isinstance(part, Tensor) or not part.is_floating_point():
        return part
    return torch.randn(part.shape, generator=generator).to(part.dtype)


def _in_one_batch(inputs: Sequence[Any]) -> Any:
    """Return inputs that are batches of one as a batch; of other parts the first."""
    first = inputs[0]
    if isinstance(first, Mapping):
        parts = _in_one_batch([tuple(each.values()) for each in inputs])
        return dict(zip(first, parts, strict=True))
    if not isinstance(first, tuple):
        return _in_one_batch([(each,) for each in inputs])[0]
    return tuple(
        torch.cat(parts)
        if isinstance(parts[0], Tensor) and parts[0].shape[:1] == (1,)
        else parts[0]
        for parts in zip(*inputs, strict=True)
    )
