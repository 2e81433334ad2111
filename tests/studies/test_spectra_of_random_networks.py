"""`spectra` names what is random or keeps state, as `JacobianOperator` does."""

import pytest
import torch
from torch import nn

from jvpsvd import spectra
from jvpsvd.errors import ArgumentError
from jvpsvd.networks import Derivatives


class Dropped(nn.Module):
    """Stochastic depth that was left on, with a small probability."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.linear(x).tanh() * (torch.rand(len(x), 1) >= 0.001)


class Branch(Dropped):
    def forward(self, x):
        return x if torch.rand(1).item() < 0.001 else x + self.linear(x)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        return x * (1.0 if self.calls < 5 else 2.0)


class Unused(nn.Module):
    def forward(self, x):
        torch.rand([])
        return x.tanh()


def network(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), kind(), nn.Linear(4, 3)).eval()


RANDOM = r"input 0 at output: module '1' .(Dropped|Branch). gave two different .* model\.eval"
COUNTS = r"input 0 at output: module '1' \(Counting\) changes its buffers"
REFUSED = [(Dropped, RANDOM), (Branch, RANDOM), (Counting, COUNTS)]


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize(("kind", "message"), REFUSED)
def test_it_is_named(kind, message, batch):
    with pytest.raises(ArgumentError, match=message):
        spectra(network(kind), torch.randn(3, 4), batch=batch, progress=False)


@pytest.mark.parametrize("kind", [Dropped, Branch, Counting])
def test_depths_before_it_are_recorded(kind):
    net, X = network(kind), torch.randn(2, 1, 4)
    derivatives = Derivatives(net, X[0], ["0", "output"])
    for x in X:
        before, after = derivatives.at(x, "an input")
        torch.testing.assert_close(before.jvp(torch.eye(4)[:, None])[:, 0], net[0].weight.mT)
        assert isinstance(after, ArgumentError)


def test_what_is_drawn_for_nothing_is_no_obstacle():
    assert spectra(network(Unused), torch.randn(3, 4), progress=False)["output"].certified.all()
