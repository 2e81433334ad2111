"""Functions from the input of a network to several of its depths."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

ToDepths = Callable[..., tuple[Tensor, ...]]
"""Takes z, and `only`, the indices of some depths, to their values, as `LayerMaps` does."""


def to_one_depth(run: ToDepths, depth: int) -> Callable[[Tensor], Tensor]:
    """Return the map to one of several depths.

    >>> import torch
    >>> from jvpsvd.networks import layer_maps
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    >>> x = torch.zeros(1, 3)
    >>> to_one_depth(layer_maps(model, x, ["0", "output"]), 1)(x).shape
    torch.Size([1, 4])
    """
    return lambda z: run(z, [depth])[0]
