"""How much of an inference is over when each depth is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jvpsvd.arguments import listed_names
from jvpsvd.networks.depths import places_of
from jvpsvd.networks.forward_pass import forward, uses_functions, watched
from jvpsvd.networks.place_names import Place

_REPEATS = 3


def passed_seconds(
    model: nn.Module, x: Any, depths: str | Sequence[str], since: str | None = None
) -> dict[str, float]:
    """Return for each depth the share of an inference that is over there; 1 at the last of them.

    Args:
        model: The network.
        x: An input.
        depths: Names of depths, in the order of the network.
        since: The depth at which the time begins; None: the input.

    >>> model = nn.Sequential(nn.Linear(300, 300), nn.ReLU()).eval()
    >>> shares = passed_seconds(model, torch.zeros(1, 300), ["0", "1"])
    >>> 0 < shares["0"] <= shares["1"] == 1
    True
    """
    depths = listed_names("depths", depths)
    names = [*([] if since is None else [since]), *depths]
    places = places_of(model, x, names)
    runs = [_seconds(model, x, places) for _ in range(_REPEATS)]
    passed = {name: min(run[place] for run in runs) for name, place in places.items()}
    began = 0.0 if since is None else passed[since]
    whole = max(passed[depths[-1]] - began, 1e-9)
    return {name: min(1.0, max(0.0, passed[name] - began) / whole) for name in depths}


def _seconds(model: nn.Module, x: Any, places: dict[str, Place]) -> dict[Place, float]:
    """Return how many seconds after its beginning an inference has computed each place."""
    passed: dict[Place, float] = {}

    def see(place: Place, module: nn.Module | None, args: Any, value: Tensor) -> None:
        passed[place] = time.perf_counter() - began

    with torch.no_grad(), watched(model, see, functions=uses_functions(*places.values())):
        began = time.perf_counter()
        forward(model, x)
    return passed
