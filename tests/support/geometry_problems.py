"""Random blocks, matrices of known singular values, and ReLU networks for tests of geometry."""

import itertools
import math

import torch
from torch import nn

from jvpsvd.geometry import random_space


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype)


def matrix(m, n, s, seed=0):
    """A matrix of given singular values, with its right vectors."""
    s = torch.as_tensor(s, dtype=torch.float64)
    V = random_space(n, len(s), seed)
    return random_space(m, len(s), seed + 1) @ torch.diag(s) @ V.mT, V


def network(*sizes, seed=0, dtype=torch.float64):
    layers = []
    for i, (n, m) in enumerate(itertools.pairwise(sizes)):
        layer = nn.Linear(n, m, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(normal(m, n, seed=seed + i) * math.sqrt(2 / n))
            layer.bias.copy_(normal(m, seed=seed + 100 + i) / 10)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def rounding(dtype):
    return 100 * torch.finfo(dtype).eps
