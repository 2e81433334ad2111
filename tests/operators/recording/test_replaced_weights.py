"""Weights changed behind torch's back: products never use old and new ones together."""

import contextlib
import time

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


def assert_old_or_refused(product, expected):
    """Copies are compared with the weights from time to time: until then products are the old."""
    found = None
    with contextlib.suppress(ArgumentError):
        found = product()
    if found is not None:
        torch.testing.assert_close(found.reshape(expected.shape), expected)


def convolutions(norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), norm(3), nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*layers).double().eval(), torch.randn(1, 2, 5, 5, dtype=torch.float64)


@pytest.fixture(params=["copied", "in place"])
def weights(request, monkeypatch):
    """How a recording holds weights: copies of few, and many where they are."""
    if request.param == "in place":
        monkeypatch.setattr("jvpsvd.operators.recording.constants.COPIED_BYTES", 0)
    return request.param


NORMS = [nn.BatchNorm2d, nn.Identity]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("change", [replace, scale_data])
def test_a_recording_follows_the_weights(change, norm, weights, dense):
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
def test_products_refuse_replaced_weights(norm, batch_dims, weights):
    net, x = convolutions(norm)
    J = JacobianOperator(net, x[None] if batch_dims else x, batch_dims=batch_dims)
    replace(net)
    for product, size in ((J.matvec, 50), (J.rmatvec, 27)):
        with pytest.raises(ArgumentError, match="weights have changed"):
            product(torch.ones(size, dtype=x.dtype))


@pytest.mark.parametrize("norm", NORMS)
def test_products_of_convolutions_are_those_of_the_old_weights_or_refused(norm, dense):
    net, x = convolutions(norm)
    J, expected = JacobianOperator(net, x), dense(net, x)
    scale_data(net)
    assert_old_or_refused(lambda: J @ torch.eye(50, dtype=x.dtype), expected)
    assert_old_or_refused(lambda: J.T @ torch.eye(27, dtype=x.dtype), expected.T)


def checkpointed(net):
    return lambda x: torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)


@pytest.mark.parametrize("change", [replace, scale_data])
@pytest.mark.parametrize("route", ["trace", "transforms", "reverse passes"])
def test_products_of_linear_layers_are_those_of_the_old_weights_or_refused(
    route, change, weights, dense
):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x = torch.randn(4, dtype=torch.float64)
    fn, derivatives = (checkpointed(net), "auto") if route == "reverse passes" else (net, route)
    J, expected = JacobianOperator(fn, x, derivatives=derivatives), dense(net, x)
    change(net)
    for A, matrix in ((J, expected), (J.T, expected.T)):
        unit_vectors = torch.eye(A.shape[1], dtype=x.dtype)
        if route == "trace" and change is scale_data and weights == "copied":
            assert_old_or_refused(lambda A=A, block=unit_vectors: A @ block, matrix)
        else:
            with pytest.raises(ArgumentError, match="weights have changed"):
                A @ unit_vectors


class Scaled(nn.Module):
    """Weights that products read as they are, and through a view."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(5))
        self.weight = nn.Parameter(torch.randn(5, 4))

    def forward(self, x):
        return torch.tanh(x * self.scale) @ self.weight


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("name", ["scale", "weight"])
def test_no_product_mixes_old_and_new_weights(name, batch_dims, weights, dense):
    torch.manual_seed(0)
    net, x = Scaled().double().eval(), torch.randn(1, 5, dtype=torch.float64)
    J = JacobianOperator(net, x[None] if batch_dims else x, batch_dims=batch_dims)
    expected = dense(net, x)
    getattr(net, name).data.mul_(1.7)
    for A, matrix in ((J, expected), (J.T, expected.T)):
        unit_vectors = torch.eye(A.shape[-1], dtype=x.dtype)
        if weights == "copied":
            assert_old_or_refused(lambda A=A, block=unit_vectors: A @ block, matrix)
        else:
            with pytest.raises(ArgumentError, match="weights have changed"):
                A @ unit_vectors


@pytest.mark.parametrize("change", [replace, scale_data])
def test_the_map_at_a_further_point_is_of_the_same_weights_or_refused(change, weights, dense):
    torch.manual_seed(0)
    net, x = Scaled().double().eval(), torch.randn(2, 1, 5, dtype=torch.float64)
    expected = dense(net, x[1])
    (J,) = Trace(net, x[0]).at(x[0])
    change(net)
    if weights == "copied" and change is scale_data:
        unit_vectors = torch.eye(5, dtype=x.dtype)[:, None]
        assert_old_or_refused(lambda: J.at(x[1]).jvp(unit_vectors)[:, 0].T, expected)
    else:
        with pytest.raises(ArgumentError, match="weights have changed"):
            J.at(x[1]).jvp(x[:1])


def test_equal_weights_at_another_address_serve(weights, dense):
    net, x = convolutions(nn.BatchNorm2d)
    trace = Trace(net, x)
    for parameter in net.parameters():
        parameter.data = parameter.data.clone()
    J = JacobianOperator.from_linear_map(trace.at(x)[0])
    torch.testing.assert_close(J @ torch.eye(50, dtype=x.dtype), dense(net, x))


def test_large_weights_are_not_copied():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2100, 4200), nn.Tanh(), nn.Linear(4200, 2100)).eval()
    trace = Trace(net, torch.randn(2100))
    addresses = {p.data_ptr() for p in net.parameters()}
    held = trace.recording.constants.values()
    assert {t.data_ptr() for t in held.tensors} <= addresses
    assert {t.data_ptr() for t in held.weights.read.values()} <= addresses


def test_one_entry_of_large_weights_is_noticed_within_a_while():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2100, 4200), nn.Tanh(), nn.Linear(4200, 2100)).eval()
    J = JacobianOperator(net, torch.randn(2100), derivatives="trace")
    v = torch.randn(2100)
    J.matvec(v)
    net[0].weight.data.view(-1)[54321] += 1.0

    def multiply_for_a_minute():
        began = time.monotonic()
        while time.monotonic() - began < 60:
            J.matvec(v)

    with pytest.raises(ArgumentError, match="weights have changed"):
        multiply_for_a_minute()


class MakesItsActivation(nn.Linear):
    """A part without weights, made anew in each call."""

    def forward(self, x):
        self.act = nn.Tanh().eval()
        return self.act(super().forward(x))


def test_parts_without_weights_that_a_network_makes_anew_are_no_change(dense):
    net, x = MakesItsActivation(3, 2).double().eval(), torch.randn(3, dtype=torch.float64)
    net(x)
    J = JacobianOperator(net, x)
    net(x)
    torch.testing.assert_close(J @ torch.eye(3, dtype=x.dtype), dense(net, x))
    net.act = nn.ReLU().eval()
    with pytest.raises(ArgumentError, match="weights have changed"):
        J @ torch.eye(3, dtype=x.dtype)


class Times(nn.Module):
    """A number that its repr does not show."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, x):
        return self.number * x


def test_a_part_that_holds_another_number_is_a_change():
    net, x = nn.Sequential(nn.Linear(3, 2), Times(2.0)).eval(), torch.randn(3)
    J = JacobianOperator(net, x, derivatives="trace")
    J @ x
    net[1] = Times(2.0).eval()
    J @ x
    net[1] = Times(3.0).eval()
    with pytest.raises(ArgumentError, match="weights have changed"):
        J @ x
