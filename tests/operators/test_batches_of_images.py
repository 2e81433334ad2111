"""Points of a batch for functions that take batches only: they are given batches of one."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack
from jvpsvd.errors import ModelError

DTYPE = torch.float64


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5)]
    return nn.Sequential(*layers).to(DTYPE).eval()


def images(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, 4, 4, dtype=DTYPE, generator=generator)


def expected(net, X):
    one = torch.func.jacrev(lambda x: net(x[None])[0])
    return torch.stack([one(x).detach().reshape(5, -1) for x in X])


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_a_network_of_batches_takes_its_own_batch(derivatives):
    net, X = network(), images()
    J = JacobianOperator(net, X, batch_dims=1, derivatives=derivatives)
    torch.testing.assert_close(J.to_dense(), expected(net, X))
    torch.testing.assert_close(J.value, net(X).detach())
    assert J.as_input(J.T @ torch.ones(5, dtype=DTYPE)).shape == X.shape
    torch.testing.assert_close(J.at(-X[:2]).to_dense(), expected(net, -X[:2]))


def test_points_with_a_batch_of_one_each_stay_as_they_are():
    net, X = network(), images()
    J = JacobianOperator(net, X[:, None], batch_dims=1)
    assert J.value.shape == (3, 1, 5)
    torch.testing.assert_close(J.to_dense(), expected(net, X))


def test_a_function_of_single_points_is_given_these():
    X = images()
    J = JacobianOperator(lambda x: x.sum((1, 2)), X, batch_dims=1)
    assert J.value.shape == (3, 2)


def test_a_tree_of_values_loses_the_batch_as_well():
    net, X = network(), images()
    J = JacobianOperator(lambda x: {"y": net(x), "z": net(x).sum()}, X, batch_dims=1)
    assert J.shape == (3, 6, 32)
    assert J.as_output(J @ torch.ones(32, dtype=DTYPE))["y"].shape == (3, 5)


def test_a_stream_of_images_is_stacked():
    net, X = network(), images()
    for points in (X, list(X)):
        stream = StreamedStack.over(net, points)
        torch.testing.assert_close(stream.to_dense(), expected(net, X).reshape(15, 32))


def test_what_fails_either_way_fails_as_it_did():
    with pytest.raises(ModelError, match="fn raised"):
        JacobianOperator(network(), torch.ones(3, 7, 4, 4, dtype=DTYPE), batch_dims=1)
