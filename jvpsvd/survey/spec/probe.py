"""Values and derivatives of a network at one fixed input, by which changed code is noticed.

Equal weights do not mean an equal network: a class of the user's own may compute something else
today. Names and source text would refuse a comment; so what is compared is what is computed. For
each depth y the probe holds ‖y‖ and a few products with random signs, and for the gradient of a
fixed combination of all depths the same. They agree between machines to rounding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from jvpsvd.networks import Model, layer_maps, to_device
from jvpsvd.networks.published import first_of
from jvpsvd.operators import full_precision
from jvpsvd.survey.spec.changed_network import PRODUCTS

logger = logging.getLogger(__name__)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def probe_network(model: Model, layers: Sequence[str]) -> tuple[float, ...]:
    """Return ‖y‖ and products of y with random signs for each depth y, and for a gradient.

    The input is noise: standard normal, or uniform from 0 to 1 where the network fails at that or
    gives no finite values. Empty, with a warning in the log, where it does so at both.

    Args:
        model: The network.
        layers: Its depths.

    >>> from torch import nn
    >>> from jvpsvd.networks import PhotoInput
    >>> model = Model("mine", nn.Flatten(), PhotoInput(size=2), "")
    >>> len(probe_network(model, ["output"]))
    10
    """
    reason = ""
    for draw in (_draw_normal, _draw_uniform) if model.inputs is None else (None,):
        try:
            found = _probe(model, layers, draw)
        except Exception as error:  # the user's own network; a run says what is wrong with it
            reason = f"fails at a test input ({first_of(error)})"
            continue
        if all(map(math.isfinite, found)):
            return tuple(found)
        reason = "gives no finite values at a test input"
    logger.warning("%s %s: a change of its code cannot be noticed", model.spec, reason)
    return ()


def _draw_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.standard_normal(shape)


def _draw_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.uniform(size=shape)


def _probe(
    model: Model,
    layers: Sequence[str],
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] | None,
) -> list[float]:
    """Return the numbers of the probe at one input: the example, or one that is drawn."""
    generator = np.random.default_rng(0)
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    example = to_device(model.example(), device)
    maps = layer_maps(model.module, example, layers, model.since, model.wrt)
    x = maps.start(example).detach()
    if draw is not None:
        x = torch.from_numpy(draw(generator, tuple(x.shape))).to(x)
    x.requires_grad_()
    with torch.enable_grad(), full_precision():
        values = maps(x)
        found = [number for y in values for number in _numbers(y, generator)]
        combination = sum((_combine(y, generator) for y in values), x.sum() * 0)
        (gradient,) = torch.autograd.grad(combination, x)
    return found + _numbers(gradient, generator)


def _numbers(y: Tensor, generator: np.random.Generator) -> list[float]:
    """Return the norm, and products with vectors of random signs, which are about as large."""
    flat = y.detach().double().cpu().reshape(-1).numpy()
    signs = generator.choice([-1.0, 1.0], (PRODUCTS, flat.size))
    return [float(np.linalg.norm(flat)), *(signs @ flat).tolist()]


def _combine(y: Tensor, generator: np.random.Generator) -> Tensor:
    """Return a product with random signs, of about the size 1 for any depth."""
    signs = torch.from_numpy(generator.choice([-1.0, 1.0], tuple(y.shape))).to(y)
    norm = float(y.detach().norm())
    return (y * signs).sum() / norm if norm > 0 else (y * signs).sum()
