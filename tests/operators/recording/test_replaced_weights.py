"""Weights changed behind torch's back: products never use old and new ones together."""

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Trace


def replace(net):
    with torch.no_grad():
        vector_to_parameters(1.7 * parameters_to_vector(net.parameters()), net.parameters())


def scale_data(net):
    for parameter in net.parameters():
        parameter.data.mul_(1.7)


def convolutions(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), norm(3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers).double().eval(), torch.randn(1, 2, 5, 5, dtype=torch.float64)


NORMS = [nn.BatchNorm2d, nn.Identity]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change", [replace, scale_data])
def test_a_recording_follows_the_weights(change, norm, dense):
    net, x = convolutions(norm)
    trace = Trace(net, x)
    trace.at(x)
    change(net)
    J = JacobianOperator.from_linear_map(trace.at(x)[0])
    expected = dense(net, x)
    torch.testing.assert_close(J @ torch.eye(50, dtype=x.dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(27, dtype=x.dtype), expected.T)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_products_refuse_replaced_weights(norm, batch_dims):
    net, x = convolutions(norm)
    J = JacobianOperator(net, x[None] if batch_dims else x, batch_dims=batch_dims)
    replace(net)
    for product, size in ((J.matvec, 50), (J.rmatvec, 27)):
        with pytest.raises(ArgumentError, match="weights have changed"):
            product(torch.ones(size, dtype=x.dtype))


@pytest.mark.parametrize("norm", NORMS)
def test_products_of_convolutions_stay_those_of_the_old_weights(norm, dense):
    net, x = convolutions(norm)
    J, expected = JacobianOperator(net, x), dense(net, x)
    scale_data(net)
    torch.testing.assert_close(J @ torch.eye(50, dtype=x.dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(27, dtype=x.dtype), expected.T)


def checkpointed(net):
    return lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)


@pytest.mark.parametrize("change", [replace, scale_data])
@pytest.mark.parametrize("route", ["trace", "transforms", "reverse passes"])
def test_products_of_linear_layers_are_those_of_the_old_weights_or_refused(route, change, dense):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x = torch.randn(4, dtype=torch.float64)
    fn, derivatives = (checkpointed(net), "auto") if route == "reverse passes" else (net, route)
    J, expected = JacobianOperator(fn, x, derivatives=derivatives), dense(net, x)
    change(net)
    for A, matrix in ((J, expected), (J.T, expected.T)):
        unit_vectors = torch.eye(A.shape[1], dtype=x.dtype)
        if route == "trace" and change is scale_data:
            torch.testing.assert_close(A @ unit_vectors, matrix)
        else:
            with pytest.raises(ArgumentError, match="weights have changed"):
                A @ unit_vectors
