"""Jacobians that are known in closed form."""

import math

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator

DERIVATIVES = ["trace", "transforms"]


def bias_free_mlp():
    layers = [nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 5, bias=False)]
    return nn.Sequential(*layers), (6,)


def bias_free_convnet():
    layers = [
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, groups=6, bias=False),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers), (1, 2, 8, 8)


@pytest.mark.parametrize("derivatives", DERIVATIVES)
@pytest.mark.parametrize("build", [bias_free_mlp, bias_free_convnet])
def test_piecewise_linear_networks_satisfy_eulers_identity(build, derivatives):
    torch.manual_seed(0)
    net, shape = build()
    net.double()
    x = torch.randn(shape, dtype=torch.float64)
    J = JacobianOperator(net, x, derivatives=derivatives)
    value = net(x).detach().reshape(-1)
    assert value.abs().max() > 1e-3
    torch.testing.assert_close(J @ x.reshape(-1), value)


# Circular padding writes into a buffer, which cannot be recorded: "auto" must fall back.
@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_circular_convolution_has_the_singular_values_of_its_fourier_blocks(derivatives):
    torch.manual_seed(0)
    size, c_in, c_out, taps = 6, 2, 3, 3
    conv = nn.Conv1d(c_in, c_out, taps, padding=1, padding_mode="circular", bias=False).double()
    J = JacobianOperator(
        conv, torch.zeros(1, c_in, size, dtype=torch.float64), derivatives=derivatives
    )
    found = torch.linalg.svdvals(J @ torch.eye(c_in * size, dtype=torch.float64))

    frequencies = torch.arange(size, dtype=torch.float64) * 2 * math.pi / size
    phases = torch.exp(-1j * frequencies[:, None] * torch.arange(taps))
    blocks = torch.einsum("oik,fk->foi", conv.weight.detach().to(phases.dtype), phases)
    expected = torch.linalg.svdvals(blocks).reshape(-1).sort(descending=True).values
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("derivatives", DERIVATIVES)
def test_layer_norm_is_blind_to_shifts_and_scalings_of_its_input(derivatives):
    torch.manual_seed(0)
    x = torch.randn(8, dtype=torch.float64)
    norm = nn.LayerNorm(8, eps=0.0, elementwise_affine=False).double()
    J = JacobianOperator(norm, x, derivatives=derivatives)
    centred = x - x.mean()
    null = torch.stack([torch.ones_like(x), centred], dim=1)
    assert (J @ null).abs().max() < 1e-12
    assert (J.T @ null).abs().max() < 1e-12
    other = torch.linspace(-1, 1, 8, dtype=torch.float64) ** 2
    assert (J @ other).abs().max() > 0.1


@pytest.mark.parametrize("derivatives", DERIVATIVES)
def test_softmax_is_symmetric_and_blind_to_shifts(derivatives):
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    J = JacobianOperator(lambda z: z.softmax(0), x, derivatives=derivatives)
    p = x.softmax(0)
    torch.testing.assert_close(
        J @ torch.eye(5, dtype=torch.float64), torch.diag(p) - p[:, None] * p
    )
    assert (J @ torch.ones(5, dtype=torch.float64)).abs().max() < 1e-15
    assert (J.T @ torch.ones(5, dtype=torch.float64)).abs().max() < 1e-15
