"""How fast this machine takes products of a network, measured before anything is computed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jvpsvd.errors import JvpsvdError
from jvpsvd.networks import Derivatives, Model, passed_seconds
from jvpsvd.operators import JacobianOperator
from jvpsvd.svd import Plan, ProblemSize
from jvpsvd.svd.cost import (
    DenseCost,
    ProductCost,
    exact_seconds,
    golub_kahan_seconds,
    measured_cost,
)

# Blocks of the solver are 8 or 16 wide.
_WIDTH = 8
# A tall block against a basis, as orthogonalisation multiplies them.
_ROWS, _BASIS, _REPEATS = 1 << 16, 64, 3


@dataclass(frozen=True)
class Speed:
    """What recording, products and dense work of a network cost here, in seconds."""

    recording: float
    """Of making the derivatives of the network, once in a run."""
    product: ProductCost
    """Of a vector, from the start to the last depth."""
    shares: Mapping[str, float]
    """How much of an inference, from the start to the last depth, is over at each depth."""
    dense: DenseCost
    """Of what a solve takes beside products, with rates of narrow blocks measured here."""

    def seconds(self, depth: str, shape: tuple[int, int], k: int, plan: Plan) -> float:
        """Return the time of a solve at a depth, as it is planned."""
        share = self.shares[depth]
        cost = ProductCost(share * self.product.forward, share * self.product.reverse)
        size = ProblemSize(shape, torch.float32)
        if plan.method == "exact":
            return exact_seconds(cost, size, k, self.dense)
        columns = plan.predicted_products // 2
        return golub_kahan_seconds(cost, size, k, columns, plan.block_size, self.dense)


def measure_speed(model: Model, depths: Sequence[str]) -> Speed:
    """Record the network to the last of the depths, take a few products, and time both.

    Raises:
        JvpsvdError: If there is no derivative to the last depth.
    """
    example = _not_black(model)
    shares = passed_seconds(model.module, example, depths, model.since)
    began = time.perf_counter()
    derivatives = Derivatives(model.module, example, depths[-1:], model.since, model.wrt)
    (J,) = derivatives.at(example, "the example")
    recording = time.perf_counter() - began
    if isinstance(J, JvpsvdError):
        raise J
    product = measured_cost(JacobianOperator.from_linear_map(J), _WIDTH)
    dense = DenseCost(_rate(torch.float32), _rate(torch.float64))
    return Speed(recording, product, shares, dense)


def _not_black(model: Model) -> Any:
    """Return an input at which units are active as they are at a photo."""
    example = model.example()
    if model.inputs is not None or not isinstance(example, Tensor):
        return example
    generator = torch.Generator().manual_seed(0)
    return torch.randn(example.shape, generator=generator, dtype=example.dtype)


def _rate(dtype: torch.dtype) -> float:
    """Return the rate at which a block is orthogonalised against a basis."""
    V = torch.full((_ROWS, _BASIS), 1 / _ROWS, dtype=dtype)
    X = torch.full((_ROWS, _WIDTH), 1.0, dtype=dtype)
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        X -= V @ (V.mT @ X)
        times.append(time.perf_counter() - began)
    return 4 * _ROWS * _BASIS * _WIDTH / min(times)
