"""What the machine can do at most: multiplications in a matrix product, bytes in a copy."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def gemm_gflops(size: int = 2048, rounds: int = 5, device: str = "cpu") -> float:
    """Return the best rate of a float32 matrix product, in 10⁹ operations per second."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty(size, size, device=device)
    return 2e-9 * size**3 / least_seconds(lambda: torch.mm(a, b, out=out), rounds, device)


def copy_gbs(mebibytes: int = 256, rounds: int = 5, device: str = "cpu") -> float:
    """Return the best rate of a copy, read and written bytes together, in 10⁹ per second."""
    source = torch.ones(mebibytes << 18, device=device)
    target = torch.empty_like(source)
    spent = least_seconds(lambda: target.copy_(source), rounds, device)
    return 2e-9 * source.nbytes / spent


def least_seconds(work: Callable[[], object], rounds: int = 3, device: str = "cpu") -> float:
    """Return the least time of some rounds, after one that is not counted."""
    least = float("inf")
    for round_ in range(rounds + 1):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        if round_:
            least = min(least, time.perf_counter() - began)
    return least


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
