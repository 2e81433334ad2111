"""Whether a network takes the dimension in front of an input for its batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from jvpsvd.operators import full_precision, restored, uncompiled
from jvpsvd.operators.function.batch_of_two import Values, refuse_without_batch
from jvpsvd.operators.function.evaluate import with_derivatives


def refuse_without_batch_of_inputs(model: nn.Module, values: Values, first: Any) -> None:
    """Check that a network takes the dimension that is put in front of each input for its batch.

    Args:
        model: The network.
        values: Evaluates it, to some depths perhaps.
        first: The first input, as the network gets it.

    Raises:
        ArgumentError: If it does not; see `refuse_without_batch`.
    """
    kinds = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    eps = max((float(torch.finfo(kind).eps) for kind in kinds), default=0.0)
    tensors = [x for x in tree_leaves(first) if isinstance(x, Tensor)]
    with full_precision(), restored(model, tensors[0].device if tensors else None):
        name = type(uncompiled(model)).__name__
        refuse_without_batch(name, with_derivatives(values, [model]), first, eps)
