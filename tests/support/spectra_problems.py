"""A small network of three depths, and inputs of it."""

import torch
from torch import nn

LAYERS = ["1", "2", "output"]
INPUTS, K = 7, 6


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(72, 5)).eval()


def inputs():
    return torch.randn(INPUTS, 3, 8, 8, generator=torch.Generator().manual_seed(1))
