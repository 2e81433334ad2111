"""Points of a batch are differentiated together, and a fault at one of them is still found."""

import pytest
import torch
from torch import nn

import jvpsvd
from jvpsvd.errors import AdjointError


class Square(torch.autograd.Function):
    """x², with a reverse pass that is wrong where x is large."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return torch.where(x > 5, 3.0, 2.0) * x * gradient

    @staticmethod
    def jvp(ctx, direction):
        (x,) = ctx.saved_tensors
        return 2 * x * direction


def test_a_network_is_called_far_less_often_than_once_a_point():
    calls = []
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    network.register_forward_hook(lambda *_: calls.append(1))
    X = torch.randn(60, 6)
    found = jvpsvd.singular_values(network, X, k=2, batch_dims=1)
    assert len(calls) < 3 * len(X)
    expected = torch.linalg.svdvals(torch.func.vmap(torch.func.jacrev(network))(X))[:, :2]
    torch.testing.assert_close(found, expected)


def test_a_wrong_reverse_pass_at_one_point_between_others_is_found():
    X = torch.ones(5, 3)
    X[2] = 9
    with pytest.raises(AdjointError):
        jvpsvd.singular_values(Square.apply, X, k=1, batch_dims=1)


def test_one_number_for_each_point():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).eval()
    X = torch.randn(5, 6)
    found = jvpsvd.singular_values(lambda x: critic(x)[0], X, batch_dims=1)
    expected = jvpsvd.singular_values(critic, X, batch_dims=1)
    torch.testing.assert_close(found, expected)
    weight = critic[0].weight
    (ours,) = torch.autograd.grad(found.sum(), weight)
    (theirs,) = torch.autograd.grad(expected.sum(), weight)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_points_that_are_single_numbers(batch_dims):
    x = torch.tensor([0.3, 1.0, 2.0] if batch_dims else 0.3, requires_grad=True)
    found = jvpsvd.singular_values(torch.sin, x, batch_dims=batch_dims)[..., 0]
    torch.testing.assert_close(found, x.cos().abs())
    (ours,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(ours, torch.autograd.grad(x.cos().abs().sum(), x)[0])
