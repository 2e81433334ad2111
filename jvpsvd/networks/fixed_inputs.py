"""What an input holds fixed, and whether a network is the same function with another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vjp
from torch.utils._pytree import tree_leaves, tree_map_only

from jvpsvd.networks.depths import LayerMaps
from jvpsvd.networks.to_depths import ToDepths
from jvpsvd.operators import restored
from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.environment.one_thread import in_one_thread
from jvpsvd.operators.function.evaluate import prepare


class TensorsHeldFixed:
    """The tensors that the present input of a map to depths holds fixed: a `FixedTensors`.

    >>> from torch import nn
    >>> from jvpsvd.networks import layer_maps
    >>> maps = layer_maps(nn.Bilinear(2, 2, 1), (torch.ones(2), torch.zeros(2)), "output", wrt=0)
    >>> TensorsHeldFixed(maps).fixed_tensors()
    (tensor([0., 0.]),)
    """

    def __init__(self, maps: LayerMaps) -> None:
        self._maps = maps

    def fixed_tensors(self) -> tuple[Tensor, ...]:
        """Return them, each once."""
        tensors = (leaf for leaf in tree_leaves(self._maps.fixed) if isinstance(leaf, Tensor))
        return tuple({id(tensor): tensor for tensor in tensors}.values())

    @contextmanager
    def with_fixed(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Hold others in their places."""
        others = dict(zip(map(id, self.fixed_tensors()), tensors, strict=True))
        x = tree_map_only(Tensor, lambda leaf: others.get(id(leaf), leaf), self._maps.input)
        with self._maps.holding(x):
            yield


def is_same_function(maps: LayerMaps, run: ToDepths, z: Tensor, other: Any) -> bool:
    """Tell whether the depths are the same function near z with what another input holds fixed.

    They are if their values and products there are the same, to the last bit: those of a recording
    differ by rounding, and values alone may hide what a mask changes in the derivative.

    Args:
        maps: The map to the depths, at the present input.
        run: The same, with weights in the dtype that they are converted to.
        z: The point.
        other: The other input.

    >>> from torch import nn
    >>> from jvpsvd.networks import layer_maps
    >>> class Net(nn.Module):
    ...     def forward(self, x, name, power):
    ...         return x**power
    >>> x = torch.ones(2)
    >>> maps = layer_maps(Net().eval(), (x, "a", 2), "output", wrt=0)
    >>> [is_same_function(maps, maps, x, other) for other in ((x, "b", 2), (x, "a", 3))]
    [True, False]
    """
    try:
        with restored(run, z.device):
            ours = _values_and_products(run, z)
            with maps.holding(other):
                theirs = _values_and_products(run, z)
    except Exception:  # the network may not take z with what another input holds fixed
        return False
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


@in_one_thread
def _values_and_products(run: ToDepths, z: Tensor) -> tuple[Tensor, ...]:
    """Return the values of all depths, a product J v of each, and the sum of products J' u."""
    fn = prepare(run)
    values, images = jvp(fn, (z,), (direction(z),))[:2]
    vjp_fn = vjp(fn, z)[1]
    return (*values, *images, *vjp_fn(tuple(map(direction, values))))
