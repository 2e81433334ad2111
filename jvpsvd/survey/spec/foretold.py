"""What a survey would hold and take on a device that is not at hand, from shapes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Model, foretell_loads, weight_bytes
from jvpsvd.networks.foretell import Load
from jvpsvd.survey.spec.costs import DepthCost, plan_depth
from jvpsvd.survey.spec.depth_choice import choose_blocks, list_depths
from jvpsvd.survey.spec.devices import EFFICIENCY, Device
from jvpsvd.survey.spec.on_meta import on_meta
from jvpsvd.svd import Plan, ProblemSize, check_request
from jvpsvd.svd.cost import DenseCost, ProductCost, exact_seconds, golub_kahan_seconds

# What a solve takes on a card beyond its arithmetic, fitted to what `python -m benchmarks gpu`
# stored of an H200 at EfficientNet-Lite0: launches and waits of a step, whose products are far from
# the peak; the projected problems of Golub–Kahan, by the square of its columns (both from blocks of
# 16 to 64 vectors, and the survey at six depths); and the decomposition after all products, by the
# square of the shorter side (torch-svd at the logits, less its products).
_STEP, _PER_COLUMN2, _PER_ROW2 = 8e-3, 0.22e-6, 0.37e-6
_TIMED = "efficientnet-lite0"


@dataclass(frozen=True)
class Foretold:
    """What a network would take on a device, depth by depth."""

    device: Device
    weights: int
    """Bytes of all weights in float32."""
    depths: list[DepthCost]
    activations: dict[str, int]
    """Bytes that the derivatives to each depth hold at one point."""
    left_out: int
    """Depths within blocks, which are not among them."""
    timed: bool
    """Whether steps were timed at this network."""

    def needed(self, cost: DepthCost) -> int:
        """Return the bytes of weights, activations and bases of one depth."""
        return self.weights + self.activations[cost.name] + (cost.bytes or 0)


def foretell(
    model: Model, device: Device, k: int, tol: float = 1e-5, *, only_blocks: bool = True
) -> Foretold:
    """Return what a network would take on a device; nothing of it is computed or allocated.

    Args:
        model: A network; a copy of it is made on the meta device.
        device: Where it is to run.
        k: Triplets.
        tol: Tolerance to plan for.
        only_blocks: Leave out depths within blocks.

    Raises:
        ArgumentError: If k < 1 or `tol` does not lie between 0 and 1.
        ModelError: If the network cannot be evaluated on the meta device.
    """
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    check_request(ProblemSize((k, k), torch.float32), k, tol=tol)
    model = on_meta(model)
    every, start = list_depths(model, functions=False)
    depths = choose_blocks(every) if only_blocks else every
    names = [depth.name for depth in depths]
    loads = foretell_loads(model.module, model.example(), names, model.since)
    weights, n = weight_bytes(model.module), math.prod(start)
    costs = []
    for depth in depths:
        load = loads[depth.name]
        budget = max(1, (device.memory - load.activations) // 2)  # as `svds` by default
        cost, chosen = plan_depth(depth, n, k, tol, budget, torch.device("cuda"))
        if chosen is not None:
            shape = depth.numel, n
            cost = replace(cost, seconds=_seconds(chosen, shape, cost.k, load, weights, device))
        costs.append(cost)
    activations = {name: load.activations for name, load in loads.items()}
    return Foretold(
        device, weights, costs, activations, len(every) - len(depths), model.spec == _TIMED
    )


def _seconds(
    chosen: Plan, shape: tuple[int, int], k: int, load: Load, weights: int, device: Device
) -> float:
    """Return the time of a solve: its arithmetic, its steps and its small decompositions.

    A product of one vector is as much work as an inference; a block reads the weights once.
    """
    rate = EFFICIENCY * device.flops
    one = max(load.flops / rate, weights / device.bandwidth / chosen.block_size)
    cost, size = ProductCost(one, one), ProblemSize(shape, torch.float32)
    dense = DenseCost(rate, rate, _STEP, _PER_COLUMN2)
    if chosen.method != "exact":
        columns = chosen.predicted_products // 2
        return golub_kahan_seconds(cost, size, k, columns, chosen.block_size, dense)
    rows = chosen.predicted_products
    steps = math.ceil(rows / chosen.block_size)
    return exact_seconds(cost, size, k, dense) + _STEP * steps + _PER_ROW2 * rows**2
