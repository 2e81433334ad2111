"""What each depth of a network would cost, before anything is computed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Model, call
from jvpsvd.survey.spec.depth_choice import list_depths
from jvpsvd.svd import ProblemSize, check_request, plan


@dataclass(frozen=True)
class DepthCost:
    """One depth, with the method that `svds` would choose there and its predicted cost."""

    name: str
    kind: str
    units: int
    """Rows of the Jacobian."""
    inputs: int
    """Columns of the Jacobian."""
    k: int
    """Triplets planned for: fewer than were asked for where the Jacobian has fewer."""
    method: str | None = None
    """None where these triplets cannot be computed."""
    products: int | None = None
    """Forward and reverse together."""
    bytes: int | None = None
    """Peak memory of bases and result."""
    seconds: float | None = None
    """Products times one inference on this machine: a rough figure."""
    reason: str = ""
    """Why this method, or why none."""


def depth_costs(
    model: Model,
    k: int,
    memory: int | str | None = None,
    tol: float = 1e-5,
    *,
    functions: bool = False,
) -> list[DepthCost]:
    """Return every depth of the model with its planned cost for k triplets, or for all there are.

    Those of modules, and with `functions` those of functions as well.

    Raises:
        ArgumentError: If k < 1, `memory` is no size, or `tol` does not lie between 0 and 1.
    """
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    check_request(ProblemSize((k, k), torch.float32), k, tol=tol, memory=memory)
    depths, start = list_depths(model, functions=functions)
    inference = _inference_seconds(model)
    n = math.prod(start)
    costs: list[DepthCost] = []
    for depth in depths:
        count = min(k, depth.numel, n)
        try:
            size = ProblemSize((depth.numel, n), torch.float32)
            chosen = plan(size, check_request(size, count, tol=tol, memory=memory))
        except ArgumentError as error:
            reason = str(error)
            costs.append(DepthCost(depth.name, depth.kind, depth.numel, n, count, reason=reason))
            continue
        costs.append(
            DepthCost(
                depth.name,
                depth.kind,
                depth.numel,
                n,
                count,
                method=chosen.method,
                products=chosen.predicted_products,
                bytes=chosen.predicted_bytes,
                seconds=round(chosen.predicted_products * inference, 1),
                reason=chosen.reason,
            )
        )
    return costs


def _inference_seconds(model: Model) -> float:
    """Return the fastest of three inferences of one input."""
    x = model.example()
    times = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            call(model.module, x)
            times.append(time.perf_counter() - began)
    return min(times)
