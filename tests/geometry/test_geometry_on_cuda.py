"""Geometry gives the same results for triplets on a GPU as for triplets on the CPU."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, geometry, svds

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def both():
    """The same network, point and triplets, on the CPU and on the card, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 20)).double()
    net.requires_grad_(False)
    x = torch.randn(30, dtype=torch.float64)
    result = svds(JacobianOperator(net, x), 6, tol=1e-10)
    wide = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 20)).double().cuda()
    wide.load_state_dict(net.state_dict())
    wide.requires_grad_(False)
    there = svds(JacobianOperator(wide, x.cuda()), 6, tol=1e-10)
    return (net, x, result), (wide, x.cuda(), there)


def close(one, two):
    torch.testing.assert_close(one.cpu(), two.cpu(), rtol=1e-6, atol=1e-6)


def test_dimensions(both):
    (_, _, here), (_, _, there) = both
    one, two = geometry.dimensions(here), geometry.dimensions(there)
    close(one.count, two.count)
    close(one.participation, two.participation)
    close(one.entropy, two.entropy)


def test_tangents_and_angles(both):
    (_, _, here), (_, _, there) = both
    tangents = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one = geometry.energy_shares(tangents, here)
    close(one, geometry.energy_shares(tangents.cuda(), there))
    spaces = [geometry.singular_space(result, 4) for result in (here, there)]
    close(spaces[0] @ spaces[0].mT, spaces[1] @ spaces[1].mT)
    close(
        geometry.principal_angles(spaces[0], tangents),
        geometry.principal_angles(spaces[1], tangents.cuda()),
    )


def test_responses_to_perturbations(both):
    (net, x, here), (wide, far, _) = both
    tangent = geometry.tangent_directions(here, 3)
    one = geometry.perturbation_response(net, x, tangent, [1e-2, 1e-1])
    two = geometry.perturbation_response(wide, far, tangent.cuda(), [1e-2, 1e-1])
    close(one.change, two.change)
    close(one.nonlinear, two.nonlinear)
