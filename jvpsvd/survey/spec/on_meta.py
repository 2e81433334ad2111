"""A network without values: what it would hold is known from shapes alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Inputs, Model, foretell_loads, to_device

logger = logging.getLogger(__name__)


def on_meta(model: Model) -> Model:
    """Return a copy of the model on the meta device, with an example there."""
    meta = torch.device("meta")
    example = to_device(model.example(), meta)
    inputs = Inputs("npy", torch.zeros(1)) if model.inputs is None else model.inputs
    inputs = replace(inputs, example=example, arguments=lambda content: content)
    # The copy takes no memory: what holds values is there without them already.
    weights = (*model.module.parameters(), *model.module.buffers())
    without_values = {id(each): _on_device(each, meta) for each in weights}
    module = copy.deepcopy(model.module, without_values).to(meta)
    return replace(model, module=module, inputs=inputs)


def activations_to(model: Model, depths: Sequence[str]) -> dict[str, int]:
    """Return the bytes that derivatives to each depth hold; none of a network that needs values.

    Such a network is named in the log.
    """
    try:
        shapes = on_meta(model)
        loads = foretell_loads(shapes.module, shapes.example(), depths, model.since)
    except JvpsvdError as error:
        logger.info("%s; what derivatives hold is not known", error)
        return {}
    return {name: load.activations for name, load in loads.items()}


def _on_device(weight: Tensor, device: torch.device) -> Tensor:
    moved = weight.detach().to(device)
    if isinstance(weight, nn.Parameter):
        return nn.Parameter(moved, requires_grad=weight.requires_grad)
    return moved
