"""A Jacobian of 0 has no energy, of which values could hold a share."""

import torch
from torch import nn

import jvpsvd


def test_inputs_without_energy_are_left_out_of_the_mean():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(6))
        net[0].bias.zero_()
    X = torch.cat([torch.ones(3, 6), -torch.ones(1, 6)])
    found = jvpsvd.spectra(net, X, k=3, progress=False)
    assert found["output"].energy_share.isnan().tolist() == [False, False, False, True]
    assert "50 %" in str(found)  # and not 62 %
    nothing = jvpsvd.spectra(net, X[3:], k=3, progress=False)
    assert "%" not in str(nothing)
