"""How long the recording of a network takes."""

from __future__ import annotations

from torch import nn

# EfficientNet-Lite0 takes so long at five depths, for each module that holds no others, with what
# torch loads for it (`python -m benchmarks first_result`).
_SECONDS_PER_MODULE = 0.04


def guess_recording_seconds(module: nn.Module) -> float:
    """Return about how long the recording of a network takes, by its number of modules.

    >>> guess_recording_seconds(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    0.08
    """
    leaves = sum(next(part.children(), None) is None for part in module.modules())
    return _SECONDS_PER_MODULE * leaves
