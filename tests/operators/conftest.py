"""Ground truths that the tests of the operators share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


def jacobian(fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The dense Jacobian by reverse mode, one row per output element."""
    rows = torch.func.jacrev(lambda z: fn(z.clone()))(x.detach().clone())
    return rows.detach().reshape(-1, x.numel())


@pytest.fixture
def dense() -> Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]:
    return jacobian


@pytest.fixture
def eye() -> Callable[..., Tensor]:
    """All unit vectors of a side of an operator, as one block."""

    def unit_vectors(size: int, dtype: torch.dtype) -> Tensor:
        return torch.eye(size, dtype=dtype)

    return unit_vectors


@pytest.fixture(autouse=True)
def recorded_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks are recorded as large ones are, except in tests marked `on_demand`."""
    if "on_demand" not in request.keywords:
        monkeypatch.setattr("jvpsvd.operators.recording.on_demand.OPERATION_OF_RECORDING", 0)
