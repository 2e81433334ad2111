"""Scales and norms of numbers whose squares and sums may leave the range of float64.

For what users give and ask for, in any room. A solve refuses such numbers, and takes the faster
norms of `svd/kernels/norms.py`, which bound their temporary memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jvpsvd.errors import ArgumentError

# Squares of numbers between these, and sums of many, are far from both ends of float64.
_LEAST, _MOST = 1e-140, 1e140


def power_of_two(values: Tensor) -> float:
    """Return the largest power of two that is at most max |values|; 1 if all are 0.

    What is divided by it keeps all its digits. It is no subnormal number of the dtype, as a GPU
    multiplies by its inverse.

    >>> power_of_two(torch.tensor([-5.0, 1.0])), power_of_two(torch.zeros(2))
    (4.0, 1.0)
    """
    low, high = values.detach().aminmax()  # without a copy of a large tensor
    mantissa, exponent = math.frexp(max(-float(low), float(high)))
    least = torch.finfo(values.dtype).tiny if values.is_floating_point() else 0.0
    return max(least, math.ldexp(1.0, exponent - 1)) if mantissa else 1.0


def powers_of_two(columns: Tensor) -> Tensor:
    """Return `power_of_two` of each column, float64.

    >>> powers_of_two(torch.tensor([[3.0, 0.0], [-9.0, 0.1]]))
    tensor([8.0000, 0.0625], dtype=torch.float64)
    """
    scales = [power_of_two(column) for column in columns.mT]
    return torch.tensor(scales, dtype=torch.float64, device=columns.device)


def row_norms(rows: Tensor) -> Tensor:
    """Return Euclidean norms along the last dimension, float64, of numbers of any size.

    >>> row_norms(torch.tensor([[3e-200, 4e-200], [3.0, 4.0]], dtype=torch.float64))
    tensor([5.0000e-200,  5.0000e+00], dtype=torch.float64)
    """
    rows = rows.detach()
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64)
    extreme = ~((norms > _LEAST) & (norms < _MOST))
    if rows.shape[-1] and bool(extreme.any()):
        some = rows[extreme].double()
        largest = some.abs().amax(-1, keepdim=True)
        largest = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        norms[extreme] = torch.linalg.vector_norm(some / largest, dim=-1) * largest.squeeze(-1)
    return norms


def scaled_back(name: str, values: Tensor, scale: float | Tensor) -> Tensor:
    """Return values times the scale that they were computed without.

    Raises:
        ArgumentError: If float64 cannot hold them.

    >>> scaled_back("distances", torch.tensor([2.0]), 4.0)
    tensor([8.])
    """
    back = values * scale
    if bool((back.isinf() & values.isfinite()).any()):
        raise ArgumentError(f"{name} exceed what float64 can hold; divide what was given by 10")
    return back
