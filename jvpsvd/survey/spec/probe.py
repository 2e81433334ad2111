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
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jvpsvd.networks import Inputs, Model, layer_maps, to_device
from jvpsvd.networks.published import first_of
from jvpsvd.operators import full_precision
from jvpsvd.survey.spec.changed_network import PRODUCTS

logger = logging.getLogger(__name__)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def probe_network(model: Model, layers: Sequence[str]) -> tuple[float, ...]:
    """Return ‖y‖ and products of y with random signs for each depth y, and for a gradient.

    The input is noise: standard normal, or uniform from 0 to 1 where the network fails at that or
    gives no finite values. Of `Inputs` it is the example, and noise as well if all entries of that
    are equal. Empty, with a warning in the log, where the network fails at all of them.

    Args:
        model: The network.
        layers: Its depths.

    >>> from torch import nn
    >>> from jvpsvd.networks import PhotoInput
    >>> model = Model("mine", nn.Flatten(), PhotoInput(size=2), "")
    >>> len(probe_network(model, ["output"]))
    10
    """
    attempts: list[Callable[[], list[float]]]
    if model.inputs is None:
        draws = (_draw_normal, _draw_uniform)
        attempts = [partial(_probe, model, layers, model.example, draw) for draw in draws]
        most = 1
    else:
        makes = [model.example, *_make_noise(model.inputs)]
        attempts = [partial(_probe, model, layers, make) for make in makes]
        most = len(attempts)
    parts: list[list[float]] = []
    reason = ""
    for attempt in attempts:
        if len(parts) == most:
            break
        try:
            found = attempt()
        except Exception as error:  # the user's own network; a run says what is wrong with it
            reason = f"fails at a test input ({first_of(error)})"
            continue
        if not all(map(math.isfinite, found)):
            reason = "gives no finite values at a test input"
        else:
            parts.append(found)
    if not parts:
        logger.warning("%s %s: a change of its code cannot be noticed", model.spec, reason)
    return tuple(chain.from_iterable(parts))


def _make_noise(inputs: Inputs) -> list[Callable[[], Any]]:
    """Return a function that makes arguments of noise, if all entries of the example are equal.

    Zeros would not show that `arguments` multiplies them by another number today.
    """
    content = inputs.example
    if not isinstance(content, Tensor | np.ndarray):
        return []
    entries = torch.as_tensor(content)
    if not entries.is_floating_point() or bool((entries != entries.reshape(-1)[:1]).any()):
        return []
    noise = np.random.default_rng(0).uniform(size=tuple(entries.shape))
    if isinstance(content, Tensor):
        return [lambda: inputs.arguments(torch.from_numpy(noise).to(content))]
    return [lambda: inputs.arguments(noise.astype(content.dtype))]


def _draw_normal(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.standard_normal(shape)


def _draw_uniform(generator: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return generator.uniform(size=shape)


def _probe(
    model: Model,
    layers: Sequence[str],
    make: Callable[[], Any],
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] | None = None,
) -> list[float]:
    """Return the numbers of the probe at the arguments that are made, or drawn ones like them."""
    generator = np.random.default_rng(0)
    device = next((p.device for p in model.module.parameters()), torch.device("cpu"))
    example = to_device(make(), device)
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
