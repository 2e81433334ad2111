"""Refuse a depth to start from that the input goes around."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from jvpsvd.errors import ModelError
from jvpsvd.networks.forward_pass import each_tensor
from jvpsvd.networks.list_calls import FUNCTION
from jvpsvd.networks.place_names import Place


class InputPaths:
    """The paths from the input through a forward pass, in the graph that autograd keeps of it.

    Token ids have no derivative: what an embedding returns for them counts as the input.

    Args:
        x: The input of the network.
        since: The name of the depth to start from.
    """

    def __init__(self, x: Any, since: str) -> None:
        self._since, self._alone = since, isinstance(x, Tensor)
        self._leaves: list[Node] = []
        self._ids: set[int] = set()
        self._cuts: dict[Place, tuple[Node | None, Tensor]] = {}
        self._seen: list[tuple[Place, str, Node | None]] = []
        with torch.inference_mode(False), torch.enable_grad():
            self.x = each_tensor(x, self._prepare)
        """The input to run the network at, with autograd."""

    def _prepare(self, value: Tensor) -> Tensor:
        if value.is_floating_point():
            return self._leaf(value)
        value = value.clone()
        self._ids.add(_storage(value))
        return value

    def _leaf(self, value: Tensor) -> Tensor:
        leaf = value.detach().clone().requires_grad_().clone()
        if leaf.grad_fn is not None:
            self._leaves.append(leaf.grad_fn)
        return leaf

    def see(self, place: Place, module: nn.Module | None, args: Any, value: Tensor) -> Tensor:
        """Note a tensor of the forward pass, and return what goes on in its place."""
        if isinstance(module, nn.Embedding) and any(_storage(arg) in self._ids for arg in args):
            value = self._leaf(value)
        if self._since.startswith(place.base):  # it may be the one
            kept = value.detach()
            value = value.clone()  # with a node of its own: identities return what they are given
            self._cuts[place] = (value.grad_fn, kept)
        kind = FUNCTION if module is None else type(module).__name__
        self._seen.append((place, kind, value.grad_fn))
        return value

    def value(self, source: Place) -> Tensor:
        """Return the value of the depth to start from."""
        return self._cuts[source][1]

    def refuse_bypass(self, source: Place, target: Place, names: Mapping[Place, str]) -> None:
        """Check that the input reaches `target` only through `source`.

        Raises:
            ModelError: Naming the first place after `source` that it reaches around it.
        """
        cut = self._cuts[source][0]
        leaves = set(self._leaves)
        if not self._alone:  # what never reaches the source is held fixed
            leaves &= _ancestors(cut, None)
        places = [place for place, _, _ in self._seen]
        later = self._seen[places.index(source) + 1 : places.index(target) + 1]
        if leaves.isdisjoint(_ancestors(later[-1][2], cut)):
            return
        around, kind = next(
            (place, kind)
            for place, kind, node in later
            if not leaves.isdisjoint(_ancestors(node, cut))
        )
        raise ModelError(
            f"since='{names[source]}' is not a cut: a path from the input to '{names[target]}' "
            f"goes around it, through '{names.get(around, around.base)}' ({kind}); choose a depth "
            "that every path runs through"
        )


def _ancestors(node: Node | None, without: Node | None) -> set[Node]:
    """Return the nodes that a node is computed from, itself too, without those behind another."""
    found: set[Node] = set()
    pending = [node]
    while pending:
        each = pending.pop()
        if each is None or each is without or each in found:
            continue
        found.add(each)
        pending += [before for before, _ in each.next_functions]
    return found


def _storage(value: Any) -> int:
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else 0
