"""A `since` that a path goes around is no cut. The error names the module where the path joins."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map
from jvpsvd.errors import ModelError


class Block(nn.Module):
    """x + body(x), the addition seen by `join` when it is a module."""

    def __init__(self, *, in_place=False):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.body = nn.Linear(4, 4)
        self.join = nn.ReLU(inplace=in_place)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x)
        return self.head(self.join(x + self.body(x)))


X = torch.linspace(-1, 1, 4).reshape(1, 4)
INPUTS = {"tensor": X, "tuple": (X,), "dict": {"x": X}}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("to", ["join", "head", "output"])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_skip_connection_around_the_depth(to, kind, in_place):
    with pytest.raises(
        ModelError, match=rf"since='body' is not a cut: .* to '{to}' .* through 'join' \(ReLU\)"
    ):
        layer_map(Block(in_place=in_place).eval(), INPUTS[kind], to=to, since="body")


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("since", ["stem", "join"])
@pytest.mark.parametrize("in_place", [False, True])
def test_depths_that_every_path_runs_through(since, kind, in_place):
    net = Block(in_place=in_place).eval()
    f, z = layer_map(net, INPUTS[kind], to="output", since=since)
    torch.testing.assert_close(f(z), net(X))


def test_inside_a_block_a_skip_that_starts_after_the_depth_is_no_bypass():
    net = nn.Sequential(nn.Linear(4, 4), Block(), nn.Linear(2, 2)).eval()
    f, z = layer_map(net, X, to="output", since="0")
    torch.testing.assert_close(f(z), net(X))


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_weights_make_no_difference(frozen):
    net = Block().eval().requires_grad_(not frozen)
    with pytest.raises(ModelError, match="through 'join'"):
        layer_map(net, X, to="output", since="body")
    layer_map(net, X, to="output", since="stem")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_check_works_where_gradients_are_switched_off(mode):
    net = Block().eval()
    with mode():
        for x in (X, 2 * X):  # made outside and inside of the mode
            with pytest.raises(ModelError, match="through 'join'"):
                layer_map(net, x, to="output", since="body")
            layer_map(net, x, to="output", since="stem")


def test_a_model_that_begins_in_place_can_be_checked():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    x = X.clone()
    f, z = layer_map(net, x, to="1", since="0")
    torch.testing.assert_close(f(z), net[1](X.relu()))
    assert x.equal(X)


def test_a_depth_that_does_not_depend_on_the_input_is_no_cut():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x + self.table(torch.arange(4)).T)

    with pytest.raises(ModelError, match=r"since='table' is not a cut.*through 'head'"):
        layer_map(Positions().eval(), X, to="output", since="table")


class TokenBlock(nn.Module):
    """A residual stream over token ids, with a mask that reaches every layer."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(9, 4)
        self.positions = nn.Embedding(9, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids, mask=None):
        position = self.positions(torch.arange(ids.shape[1]))
        x = self.tokens(ids)
        x = x + position
        x = x + self.body(x) + position
        x = x if mask is None else x * mask[..., None]
        return self.head(x)


IDS = torch.tensor([[3, 1, 4]])


@pytest.mark.parametrize("x", [IDS, (IDS,), {"ids": IDS}], ids=["tensor", "tuple", "dict"])
def test_a_residual_stream_of_tokens_goes_around_a_block(x):
    net = TokenBlock().eval()
    with pytest.raises(ModelError, match=r"since='body' is not a cut.*through 'head'"):
        layer_map(net, x, to="output", since="body")
    f, z = layer_map(net, x, to="output", since="tokens")  # positions are constants, not a path
    torch.testing.assert_close(f(z), net(IDS))


def test_arguments_that_never_reach_the_depth_are_held_fixed():
    net = TokenBlock().eval()
    x = {"ids": IDS, "mask": torch.tensor([[1.0, 0.0, 1.0]])}
    f, z = layer_map(net, x, to="output", since="tokens")
    J = JacobianOperator(f, z) @ torch.eye(12)
    assert J[2:4].eq(0).all()
    assert J[:2].ne(0).any()


def test_arguments_that_reach_the_depth_must_not_go_around_it():
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, time):
            return self.second(self.first(x + time) + time)

    with pytest.raises(ModelError, match=r"since='first' is not a cut.*through 'second'"):
        layer_map(Conditioned().eval(), (X, torch.ones(1, 1)), to="output", since="first")
