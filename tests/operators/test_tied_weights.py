"""Modules that stand at several places, and weights that several modules share."""

import copy

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator


def thrice():
    return nn.Sequential(*[nn.Linear(4, 4)] * 3, nn.Tanh())


def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    return net


class BothInOneModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.forth = nn.Parameter(torch.randn(4, 4))
        self.back = self.forth
        self.register_buffer("scale", torch.rand(4))
        self.register_buffer("same_scale", self.scale)

    def forward(self, x):
        return ((x @ self.forth).tanh() * self.scale) @ self.back.T * self.same_scale


def shared_and_tied():
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh())
    last = nn.Linear(4, 4)
    last.weight = block[0].weight
    return nn.Sequential(block, BothInOneModule(), block, last)


NETS = pytest.mark.parametrize("make", [thrice, tied, BothInOneModule, shared_and_tied])
POINT = torch.linspace(-1, 1, 8).reshape(2, 4)


def built(make):
    torch.manual_seed(0)
    return make().eval()


def by_autograd(net, x):
    """∂f/∂θ by reverse passes through the network itself, one row for each output."""
    value = net(x).flatten()
    weights = list(net.parameters())
    rows = [torch.autograd.grad(y, weights, retain_graph=True) for y in value]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


@NETS
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_the_jacobian_by_parameters_is_that_of_autograd(make, derivatives):
    net = built(make).double()
    J = JacobianOperator.wrt_parameters(net, POINT.double(), derivatives=derivatives)
    found = J @ torch.eye(J.shape[1], dtype=torch.float64)
    torch.testing.assert_close(found, by_autograd(net, POINT.double()))


@NETS
def test_in_another_dtype_it_is_that_of_the_network_in_that_dtype(make):
    net = built(make)
    wide, x = copy.deepcopy(net).double(), POINT.double()
    eye = torch.eye(8, dtype=torch.float64)
    J = JacobianOperator(net, x, dtype=torch.float64)
    torch.testing.assert_close(J @ eye, JacobianOperator(wide, x) @ eye)
    by_weights = JacobianOperator.wrt_parameters(net, x, dtype=torch.float64)
    found = by_weights @ torch.eye(by_weights.shape[1], dtype=torch.float64)
    torch.testing.assert_close(found, by_autograd(wide, x))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


@NETS
def test_every_parameter_is_the_object_that_it_was(make):
    net = built(make)
    before = dict(net.named_parameters(remove_duplicate=False))
    JacobianOperator.wrt_parameters(net, POINT)
    JacobianOperator(net, POINT.double(), dtype=torch.float64)
    after = dict(net.named_parameters(remove_duplicate=False))
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all(type(p) is nn.Parameter and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize(("make", "name"), [(thrice, "2.bias"), (tied, "2.weight")])
def test_a_parameter_may_be_named_by_any_of_its_names(make, name):
    net = built(make)
    J = JacobianOperator.wrt_parameters(net, POINT, names=[name])
    (first,) = J.as_input(torch.zeros(J.shape[1]))
    assert net.get_parameter(first) is net.get_parameter(name)


def test_one_name_may_be_given_as_a_string():
    net = built(tied)
    assert JacobianOperator.wrt_parameters(net, POINT, names="0.bias").shape == (8, 4)
