"""Refuse a depth to start from that the input goes around."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.errors import ModelError
from jvpsvd.networks.forward_pass import ReachedAll, call, each_tensor, uses_functions, watched
from jvpsvd.networks.list_calls import FUNCTION
from jvpsvd.networks.place_names import Place


def refuse_bypass(
    model: nn.Module, x: Any, source: Place, target: Place, names: Mapping[Place, str]
) -> None:
    """Check that x reaches `target` only through `source`: a derivative with `source` cut is 0.

    Args:
        model: The network.
        x: Its input.
        source: Where the cut is.
        target: A later place.
        names: Names of all places.

    Raises:
        ModelError: Naming the first place after `source` that x reaches around it.
    """
    leaves: list[Tensor] = []
    ids: set[int] = set()
    later: list[tuple[Place, str, Tensor]] = []
    passed = False

    def leaf(value: Tensor) -> Tensor:
        leaves.append(value.detach().clone().requires_grad_())
        return leaves[-1].clone()

    def prepare(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return leaf(value)
        value = value.clone()
        ids.add(_storage(value))
        return value

    def see(place: Place, module: nn.Module | None, args: Any, value: Tensor) -> Tensor:
        nonlocal passed
        if (
            not passed
            and isinstance(module, nn.Embedding)
            and any(_storage(arg) in ids for arg in args)
        ):
            value = leaf(value)
        if place == source:
            passed = True
            if not isinstance(x, Tensor):
                leaves[:] = [each for each in leaves if _depends(value, each)]
            return value.detach()
        if passed:
            kind = FUNCTION if module is None else type(module).__name__
            later.append((place, kind, value))
        if place == target:
            raise ReachedAll
        return value

    with torch.inference_mode(False), torch.enable_grad():
        try:
            functions = uses_functions(source, target)
            with watched(model, see, functions=functions), suppress(ReachedAll):
                call(model, each_tensor(x, prepare))
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
            raise ModelError(
                "the model goes through tensors made under torch.inference_mode before "
                f"'{names[target]}', which torch cannot differentiate; take that out of it"
            ) from error
        if not later or later[-1][0] != target or not _any_reaches(leaves, later[-1][2]):
            return
        around, kind = next((place, kind) for place, kind, y in later if _any_reaches(leaves, y))
    raise ModelError(
        f"since='{names[source]}' is not a cut: a path from the input to '{names[target]}' goes "
        f"around it, through '{names.get(around, around.base)}' ({kind}); choose a depth that "
        "every path runs through"
    )


def _any_reaches(leaves: list[Tensor], value: Tensor) -> bool:
    return any(_depends(value, leaf) for leaf in leaves)


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _depends(value: Tensor, leaf: Tensor) -> bool:
    if not value.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(
        value.sum(), leaf, allow_unused=True, retain_graph=True, materialize_grads=False
    )
    return gradient is not None
