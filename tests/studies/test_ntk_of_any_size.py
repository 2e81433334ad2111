"""Tangent kernels of derivatives whose squares leave the range of their dtype."""

import pytest
import torch
from torch import nn

from jvpsvd import ntk
from jvpsvd.errors import ArgumentError


class Scaled(nn.Module):
    def __init__(self, c, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 5, dtype=dtype), nn.Linear(5, 3, dtype=dtype)
        self.c = c

    def forward(self, x):
        return self.c * self.second(torch.tanh(self.first(x)))


class Vanishing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))

    def forward(self, x):
        for layer in self.layers:
            x = 1e-8 * layer(x)
        return x + 1


@pytest.mark.parametrize("options", [{}, {"block": 2}, {"memory": 60000, "block": 2}])
@pytest.mark.parametrize(
    ("dtype", "c"),
    [(torch.float32, c) for c in (1e-29, 1e-22, 1e18, 1e30)]
    + [(torch.float64, c) for c in (1e-135, 1e135)],
)
def test_kernels_of_scaled_networks(dtype, c, options):
    X = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).to(dtype)
    one, scaled = (ntk(Scaled(each, dtype).eval(), X, k=4, **options) for each in (1.0, c))
    assert torch.allclose(scaled.values / c / c, one.values, rtol=1e-4)
    assert scaled.trace / c / c == pytest.approx(one.trace, rel=1e-4)
    assert scaled.check < 1e-4
    assert (scaled.residuals <= 1e-4 * scaled.values[0]).all()


@pytest.mark.parametrize(
    ("dtype", "c"), [(torch.float32, 1e-35), (torch.float64, 1e-145), (torch.float64, 1e-300)]
)
def test_derivatives_that_are_too_small_are_refused(dtype, c):
    X = torch.ones(2, 4, dtype=dtype)
    with pytest.raises(ArgumentError, match=r"nearer 1|multiply the output"):
        ntk(Scaled(c, dtype).eval(), X, k=2)


def test_vanishing_derivatives_are_not_zero():
    with pytest.raises(ArgumentError, match="use float64"):
        ntk(Vanishing().eval(), torch.ones(3, 4), k=2, names="layers.0.weight")


def test_derivatives_that_are_0():
    net = nn.Linear(4, 2)
    assert ntk(net.eval(), torch.zeros(3, 4), k=2, names="weight").values.eq(0).all()
