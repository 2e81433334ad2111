"""Derivatives at one input after another, and at batches between them."""

import torch
from torch import nn

from jvpsvd.networks import Derivatives


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double().eval()


def entries(J):
    """The entries of each Jacobian of a batch."""
    n = J.point[0].numel()
    V = torch.eye(n, dtype=J.point.dtype).reshape(n, *J.point.shape[1:])
    return J.jvp(V.expand(len(J.point), *V.shape), chunk=n).flatten(2).mT


def dense(net, x):
    return torch.func.jacrev(net)(x).detach().reshape(-1, x.numel())


def test_a_batch_may_be_of_another_shape_than_the_input_before():
    net, x = network(), torch.randn(1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, x, ["1", "output"])
    derivatives.at(x, "one")
    for rows in (2, 5, 2):
        X = torch.randn(3, rows, 3, dtype=torch.float64)
        early, late = derivatives.at_many(X)
        torch.testing.assert_close(entries(early), torch.stack([dense(net[:2], z) for z in X]))
        torch.testing.assert_close(entries(late), torch.stack([dense(net, z) for z in X]))


def test_inputs_and_batches_of_one_shape_share_a_recording(count_recordings):
    net, X = network(), torch.randn(4, 1, 3, dtype=torch.float64)
    derivatives = Derivatives(net, X[0], ["1", "output"])
    for _ in range(2):
        _, late = derivatives.at_many(X)
        torch.testing.assert_close(entries(late), torch.stack([dense(net, x) for x in X]))
        _, one = derivatives.at(X[3], "one")
        images = one.jvp(torch.eye(3, dtype=torch.float64)[:, None]).flatten(1).mT
        torch.testing.assert_close(images, dense(net, X[3]))
        assert [value.shape for value in derivatives.values(X[1])] == [(1, 4), (1, 2)]
    assert count_recordings() == 1


def test_a_string_names_one_depth():
    net, x = network(), torch.randn(1, 3, dtype=torch.float64)
    (J,) = Derivatives(net, x, "output").at(x, "one")
    torch.testing.assert_close(J.value, net(x).detach())
