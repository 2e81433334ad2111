"""What each depth of a network would cost, before anything is computed."""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass, replace

import torch

from jvpsvd.errors import ArgumentError, JvpsvdError
from jvpsvd.networks import Depth, Model
from jvpsvd.survey.spec.depth_choice import choose_blocks, list_depths
from jvpsvd.survey.spec.on_meta import activations_to
from jvpsvd.survey.spec.speed import Speed, measure_speed
from jvpsvd.svd import Plan, ProblemSize, check_request, plan

logger = logging.getLogger(__name__)


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
    activations: int | None = None
    """Bytes that the derivatives at one input hold besides weights; None where not known."""
    seconds: float | None = None
    """Of one input, as products and dense work take here; None where they were not timed."""
    reason: str = ""
    """Why this method, or why none."""


@dataclass(frozen=True)
class Forecast:
    """The depths of a network with their planned costs."""

    depths: list[DepthCost]
    left_out: int
    """Depths that are not among them."""
    recording: float | None
    """Seconds that making the derivatives takes, once in a run; None where it was not timed."""


def depth_costs(
    model: Model,
    k: int,
    memory: int | str | None = None,
    tol: float = 1e-5,
    *,
    functions: bool = False,
    timed: bool = True,
) -> list[DepthCost]:
    """Return every depth of the model with its planned cost for k triplets, or for all there are.

    Those of modules, and with `functions` those of functions as well.

    Args:
        model: The network.
        k: Triplets to plan for.
        memory: Budget of one solve, as `svds` takes it.
        tol: Tolerance to plan for.
        functions: Whether to list what functions compute.
        timed: Whether to record the network and time products, so that seconds are known.

    Raises:
        ArgumentError: If k < 1, `memory` is no size, or `tol` does not lie between 0 and 1.
    """
    return forecast(model, k, memory, tol, functions=functions, timed=timed).depths


def forecast(
    model: Model,
    k: int,
    memory: int | str | None = None,
    tol: float = 1e-5,
    *,
    functions: bool = False,
    timed: bool = True,
    only_blocks: bool = False,
) -> Forecast:
    """Return the same with what recording takes; `only_blocks` leaves out what is within blocks.

    Raises:
        ArgumentError: As `depth_costs`.
    """
    if k < 1:
        raise ArgumentError(f"k={k} must be at least 1")
    check_request(ProblemSize((k, k), torch.float32), k, tol=tol, memory=memory)
    every, start = list_depths(model, functions=functions)
    depths = choose_blocks(every) if only_blocks else every
    speed = _measure(model, depths) if timed and depths else None
    n = math.prod(start)
    costs: list[DepthCost] = []
    held = activations_to(model, [depth.name for depth in depths])
    # What depths hold stands for what a vector becomes on its way to them.
    entries = itertools.accumulate((depth.numel for depth in every), max, initial=n)
    widest = dict(
        zip((depth.name for depth in every), itertools.islice(entries, 1, None), strict=True)
    )
    for depth in depths:
        activations = held.get(depth.name)
        cost, chosen = plan_depth(
            depth, n, k, tol, memory, held=activations or 0, widest=widest[depth.name]
        )
        cost = replace(cost, activations=activations)
        if speed is not None and chosen is not None:
            shape = depth.numel, n
            cost = replace(cost, seconds=speed.seconds(depth.name, shape, cost.k, chosen))
        costs.append(cost)
    recording = None if speed is None else speed.recording
    return Forecast(costs, len(every) - len(depths), recording)


def plan_depth(
    depth: Depth,
    n: int,
    k: int,
    tol: float,
    memory: int | str | None,
    device: torch.device | None = None,
    held: int = 0,
    widest: int | None = None,
) -> tuple[DepthCost, Plan | None]:
    """Return what k triplets at a depth would take but for seconds, and the plan, if there is one.

    Args:
        depth: The depth.
        n: Numbers of an input.
        k: Triplets; fewer where there are no more.
        tol: Tolerance.
        memory: Budget of the solve.
        device: Where it is to run; None: the CPU.
        held: Bytes that the derivatives hold besides weights.
        widest: About how many entries a vector takes on its way; None if unknown.
    """
    count = min(k, depth.numel, n)
    cost = DepthCost(depth.name, depth.kind, depth.numel, n, count)
    size = ProblemSize((depth.numel, n), torch.float32, device, held=held, widest=widest)
    try:
        chosen = plan(size, check_request(size, count, tol=tol, memory=memory))
    except ArgumentError as error:
        return replace(cost, reason=str(error)), None
    planned = replace(
        cost,
        method=chosen.method,
        products=chosen.predicted_products,
        bytes=chosen.predicted_bytes,
        reason=chosen.reason,
    )
    return planned, chosen


def _measure(model: Model, depths: list[Depth]) -> Speed | None:
    """Return what products cost; None, with a line in the log, where there is no derivative."""
    try:
        return measure_speed(model, [depth.name for depth in depths])
    except JvpsvdError as error:
        logger.warning("%s; seconds are not known", error)
        return None
