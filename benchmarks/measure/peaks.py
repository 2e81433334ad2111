"""The machine's peaks: operations per second in a matrix product, bytes per second in a copy."""

from __future__ import annotations

import torch

from benchmarks.measure.timing import time_least


def gemm_gflops(size: int = 2048, rounds: int = 5, device: str = "cpu") -> float:
    """Return the best rate of a float32 matrix product, in 10⁹ operations per second."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    out = torch.empty(size, size, device=device)
    return 2e-9 * size**3 / time_least(lambda: torch.mm(a, b, out=out), rounds, device)


def copy_gbs(mebibytes: int = 256, rounds: int = 5, device: str = "cpu") -> float:
    """Return the best rate of a copy, read and written bytes together, in 10⁹ per second."""
    source = torch.ones(mebibytes << 18, device=device)
    target = torch.empty_like(source)
    seconds = time_least(lambda: target.copy_(source), rounds, device)
    return 2e-9 * source.nbytes / seconds
