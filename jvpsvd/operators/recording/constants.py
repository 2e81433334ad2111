"""Values that depend on weights alone, computed again when the weights change."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.func import functional_call


class Constants:
    """The values that a recording computes from weights alone, such as kernels turned round.

    They are kept with a copy of these weights, and computed again when the weights are no longer
    the same. Version counters would miss ``parameter.data = …``, which leaves them as they are.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self.weights = (*graph.parameters(), *graph.buffers())
        """All weights of the recording, as the function holds them."""
        used = (n for n in graph.graph.find_nodes(op="get_attr") if _is_computed_with(n))
        self._sources = {str(node.target): getattr(graph, str(node.target)) for node in used}
        self._copies: dict[str, Tensor] | None = None
        self._values: tuple[Tensor, ...] = ()

    def values(self) -> tuple[Tensor, ...]:
        """Return the values for the weights as they are now."""
        copies = self._copies
        if copies is None or not all(
            _is_copy(copies[name], weight) for name, weight in self._sources.items()
        ):
            copies = {name: weight.detach().clone() for name, weight in self._sources.items()}
            with torch.no_grad():
                self._values = tuple(functional_call(self._graph, copies, ()))
            self._copies = copies
        return self._values


def _is_copy(copy: Tensor, weight: Tensor) -> bool:
    same = (copy.shape, copy.dtype, copy.device) == (weight.shape, weight.dtype, weight.device)
    return same and torch.equal(copy, weight)


def _is_computed_with(node: fx.Node) -> bool:
    """Return whether anything but the output of the graph uses it."""
    return any(user.op != "output" for user in node.users)
