"""A derivative is that of one time: what has changed since is refused, or has no effect."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, svds
from jvpsvd.errors import ArgumentError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).eval()


def change_in_place(net):
    with torch.no_grad():
        net[0].weight.mul_(2)


def change_data(net):
    net[0].weight.data.mul_(2)
    time.sleep(0.1)  # weights are not compared before every product


def replace_data(net):
    net[0].weight.data = 2 * net[0].weight.data


def replace_parameter(net):
    net[0].weight = nn.Parameter(2 * net[0].weight)


def replace_module(net):
    net[0] = nn.Linear(6, 8)


def replace_activation(net):
    net[1] = nn.ReLU()


CHANGES = [
    *(change_in_place, change_data, replace_data),
    *(replace_parameter, replace_module, replace_activation),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_changed_weights_are_refused_by_every_route(net, change, derivatives):
    J = JacobianOperator(net, X[:1], derivatives=derivatives)
    svds(J, 2)
    change(net)
    with pytest.raises(ArgumentError, match="weights have changed"):
        svds(J, 2)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_a_stream_refuses_changed_weights(net, change, used, recorded):
    function = net if recorded else lambda x: net(x) if x.sum() > -100 else -net(x)
    J = StreamedStack.over(function, X)
    if used:
        svds(J, 2)
    change(net)
    with pytest.raises(ArgumentError, match="the weights have changed since this derivative was"):
        svds(J, 2)


@pytest.mark.parametrize("kind", ["tensor", "list", "array", "arrays"])
def test_a_stream_keeps_its_points(net, kind):
    mine = X.clone()
    forms = {"tensor": mine, "list": list(mine), "array": mine.numpy(), "arrays": [*mine.numpy()]}
    points = forms[kind]
    J = StreamedStack.over(net, points)
    expected = J.to_dense()
    mine.mul_(3)
    assert np.array_equal(J.to_dense(), expected)


def test_weights_that_hold_nan_and_are_not_read_have_not_changed(net):
    unused = torch.full((2,), torch.nan)
    J = JacobianOperator(lambda x: net(x) + 0 * unused.nan_to_num().sum(), X[:1], check=False)
    for _ in range(3):
        time.sleep(0.05)
        assert (J @ torch.ones(6)).isfinite().all()


def test_a_network_that_keeps_a_buffer_of_the_last_shape_has_not_changed():
    class Angles(nn.Module):
        def forward(self, x):
            if getattr(self, "table", None) is None or len(self.table) != x.shape[-1]:
                self.register_buffer("table", torch.arange(float(x.shape[-1])), persistent=False)
            return (x * self.table).tanh()

    model = Angles().eval()
    J = JacobianOperator(model, X[:1], derivatives="trace")
    model(torch.ones(1, 9))
    assert (J @ torch.ones(6)).shape == (6,)
