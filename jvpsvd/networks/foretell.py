"""What a network holds and computes up to each depth, from shapes alone: on the meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from jvpsvd.arguments import listed_names
from jvpsvd.networks.depths import places_of
from jvpsvd.networks.forward_pass import forward, uses_functions, watched
from jvpsvd.networks.place_names import Place

_FLOAT = 4  # bytes of a number: products are taken in float32


@dataclass(frozen=True)
class Load:
    """What an inference up to a depth takes."""

    activations: int
    """Bytes that the derivatives at one point hold besides the weights, in float32."""
    flops: int
    """Floating-point operations of an inference, from where it is differentiated."""


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers in float32, as products read them.

    >>> weight_bytes(nn.Linear(9, 1))
    40
    """
    tensors = {id(t): t.numel() for t in (*model.parameters(), *model.buffers())}
    return _FLOAT * sum(tensors.values())


def foretell_loads(
    model: nn.Module, x: Any, depths: str | Sequence[str], since: str | None = None
) -> dict[str, Load]:
    """Return what an inference takes up to each depth; no value is computed on the meta device.

    What derivatives hold is what reverse mode saves, the input and the value: one attention matrix
    of a layer, no weights.

    Args:
        model: The network, on the meta device or another one.
        x: An input, on the same device.
        depths: Names of depths, in the order of the network.
        since: The depth to differentiate from; None: the input.

    >>> with torch.device("meta"):
    ...     model, x = nn.Sequential(nn.Linear(8, 4), nn.Tanh()).eval(), torch.empty(1, 8)
    >>> foretell_loads(model, x, ["0", "1"])["1"]
    Load(activations=64, flops=64)
    """
    depths = listed_names("depths", depths)
    places = places_of(model, x, [*([] if since is None else [since]), *depths])
    source = None if since is None else places[since]
    held = _Held(model)
    counter = FlopCounterMode(display=False)
    loads: dict[Place, Load] = {}
    began = 0

    def see(place: Place, module: nn.Module | None, args: Any, value: Tensor) -> Tensor | None:
        nonlocal began
        if place == source:
            began = counter.get_total_flops()
            start = value.detach().requires_grad_()
            held.count(start)
            return start
        if place in places.values():
            flops = counter.get_total_flops() - began
            loads[place] = Load(held.bytes + _FLOAT * value.numel(), flops)
        return None

    given = _require_grad(x) if source is None else x
    for leaf in tree_leaves(given):
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            held.count(leaf)
    frozen = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        with (
            torch.enable_grad(),
            saved_tensors_hooks(held.count, lambda saved: saved),
            sdpa_kernel(SDPBackend.MATH),
            counter,
            watched(model, see, functions=uses_functions(*places.values())),
        ):
            forward(model, given)
    finally:
        for parameter, requires_grad in frozen:
            parameter.requires_grad_(requires_grad)
    return {name: loads[places[name]] for name in depths}


class _Held:
    """Counts the storages that are saved, each once, and none of a weight."""

    def __init__(self, model: nn.Module) -> None:
        self.bytes = 0
        weights = (*model.parameters(), *model.buffers())
        self._storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in weights}

    def count(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is saved, and return it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = storage  # kept, so that no other takes its address
            entries = storage.nbytes() // tensor.element_size()
            size = _FLOAT if tensor.is_floating_point() else tensor.element_size()
            self.bytes += entries * size
        return tensor


def _require_grad(x: Any) -> Any:
    """Return an input whose floating tensors require a gradient."""

    def one(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().requires_grad_() if floating else value

    if isinstance(x, dict):
        return {name: one(value) for name, value in x.items()}
    return tuple(map(one, x)) if isinstance(x, tuple) else one(x)
