"""Networks that take a point as well as a batch, and compute something else of the two."""

import functools

import pytest
import torch
from torch import nn

from jvpsvd import (
    JacobianOperator,
    StreamedStack,
    layer_map,
    singular_values,
    spectra,
    svds,
)
from jvpsvd.errors import ArgumentError, NonFiniteError

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
ELSE = "computes something else of the point X"


class ChannelNorm(nn.Module):
    """A layer norm over channels, as ConvNeXt writes it."""

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0][:, -1]


class ClassToken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x)[:, 0]


class Cell(nn.Module):
    """Makes its state in the forward pass."""

    def __init__(self):
        super().__init__()
        self.input, self.state = nn.Linear(6, 5), nn.Linear(5, 5)

    def forward(self, x):
        h = torch.zeros(x.shape[0], 5, dtype=x.dtype)
        for _ in range(2):
            h = torch.tanh(self.input(x) + self.state(h))
        return h


def convolutions(*layers):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)


OTHERS = {
    "norm over channels": lambda: (convolutions(ChannelNorm(), nn.Conv2d(4, 2, 1)), (3, 6, 6)),
    "softmax over channels": lambda: (convolutions(nn.Softmax(1)), (3, 6, 6)),
    "last state": lambda: (LastState(), (7, 4)),
    "class token": lambda: (ClassToken(), (6, 8)),
    "mean of tokens": lambda: (nn.Sequential(nn.Linear(8, 8), nn.Softmax(1)), (6, 8)),
    "zeros for each": lambda: (Cell(), (6,)),
}
OTHER = pytest.mark.parametrize("name", OTHERS)

SAME = {
    "perceptron": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), (6,)),
    "softmax of scores": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Softmax(-1)), (6,)),
    "one output": lambda: (nn.Linear(6, 1), (6,)),
    "takes batches only": lambda: (nn.Sequential(nn.Linear(6, 5), nn.Softmax(1)), (6,)),
    "images": lambda: (convolutions(nn.Tanh(), nn.Conv2d(4, 2, 3)), (3, 6, 6)),
    "classifier": lambda: (convolutions(nn.Flatten(), nn.Linear(144, 5)), (3, 6, 6)),
    "other shape": lambda: (convolutions(nn.Flatten(2)), (3, 6, 6)),
    "channels left apart": lambda: (convolutions(nn.Flatten()), (3, 6, 6)),
    "tokens": lambda: (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (6, 8)),
}


def made(cases, name, dtype, count=4):
    torch.manual_seed(0)
    net, shape = cases[name]()
    return net.to(dtype).eval(), torch.randn(count, *shape, dtype=dtype)


def jacobians_of_batches(net, X):
    """Of each row of the batch, computed as a batch of one."""
    rows = [torch.autograd.functional.jacobian(net, x) for x in X.split(1)]
    return torch.stack([row.reshape(-1, X[0].numel()) for row in rows])


ROUTES = {
    "operator": lambda net, X: JacobianOperator(net, X, batch_dims=1),
    "recorded": lambda net, X: JacobianOperator(net, X, batch_dims=1, derivatives="trace"),
    "method": lambda net, X: JacobianOperator(net.forward, X, batch_dims=1),
    "partial": lambda net, X: JacobianOperator(functools.partial(net), X, batch_dims=1),
    "layer_map": lambda net, X: JacobianOperator(
        layer_map(net, X, to="output")[0], X, batch_dims=1
    ),
    "singular_values": lambda net, X: singular_values(net, X, batch_dims=1),
    "stream": lambda net, X: StreamedStack.over(net, X),
    "stream of a list": lambda net, X: StreamedStack.over(net, list(X)),
    "dict": lambda net, X: JacobianOperator(OfDict(net), {"x": X}, batch_dims=1),
}


class OfDict(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, point):
        return self.net(point["x"])


@DTYPES
@OTHER
def test_a_network_that_computes_something_else_of_a_point_is_refused(name, dtype):
    net, X = made(OTHERS, name, dtype)
    with pytest.raises(ArgumentError, match=ELSE) as caught:
        JacobianOperator(net, X, batch_dims=1)
    assert "\n" not in str(caught.value)
    assert "write lambda x: fn(x[None])[0]" in str(caught.value)


@pytest.mark.parametrize("route", ROUTES)
def test_every_way_to_many_points_refuses_it(route):
    net, X = made(OTHERS, "softmax over channels", torch.float64)
    with pytest.raises(ArgumentError, match=ELSE):
        ROUTES[route](net, X)


@DTYPES
@OTHER
def test_what_the_message_says_to_write_gives_what_a_batch_does(name, dtype):
    net, X = made(OTHERS, name, dtype)
    J = JacobianOperator(lambda x: net(x[None])[0], X, batch_dims=1)
    torch.testing.assert_close(J.to_dense(), jacobians_of_batches(net, X), rtol=1e-3, atol=1e-5)
    found = svds(J, 1).s.flatten()
    torch.testing.assert_close(
        found, spectra(net, X, layers="output", k=1, progress=False)["output"].s.flatten()
    )
    plain = JacobianOperator(lambda x: net(x), X, batch_dims=1)
    torch.testing.assert_close(plain.value[0], net(X[0]).detach())


@DTYPES
@pytest.mark.parametrize("name", SAME)
def test_networks_that_compute_the_same_work_as_before(name, dtype):
    net, X = made(SAME, name, dtype)
    expected = jacobians_of_batches(net, X)
    for fn in (net, layer_map(net, X, to="output")[0]):
        J = JacobianOperator(fn, X, batch_dims=1)
        torch.testing.assert_close(J.to_dense(), expected, rtol=1e-3, atol=1e-5)
    stream = StreamedStack.over(net, X).to_dense()
    torch.testing.assert_close(stream, expected.flatten(0, 1), rtol=1e-3, atol=1e-5)


@DTYPES
def test_from_a_depth_on(dtype):
    torch.manual_seed(0)
    net = convolutions(ChannelNorm(), nn.Tanh()).to(dtype).eval()
    X = torch.randn(4, 3, 6, 6, dtype=dtype)
    f, Z = layer_map(net, X, to="output", since="0")
    with pytest.raises(ArgumentError, match="fn computes something else of the point X"):
        JacobianOperator(f, Z, batch_dims=1)
    J = JacobianOperator(lambda z: f(z[None])[0], Z, batch_dims=1)
    expected = jacobians_of_batches(net[1:], Z)
    torch.testing.assert_close(J.to_dense(), expected, rtol=1e-3, atol=1e-5)


def test_a_difference_that_the_first_point_hides_is_seen():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), ChannelNorm()).double().eval()
    X = torch.randn(3, 3, 6, 6, dtype=torch.float64)
    X[0] = 0
    with pytest.raises(ArgumentError, match=ELSE):
        JacobianOperator(net, X, batch_dims=1)
    J = JacobianOperator(net, X[:1], batch_dims=1)
    with pytest.raises(ArgumentError, match=ELSE):
        J.at(X)


def test_points_that_are_batches_of_one_stay_as_they_are():
    net, X = made(SAME, "takes batches only", torch.float64)
    expected = jacobians_of_batches(net, X)
    J = JacobianOperator(net, X[:, None], batch_dims=1)
    torch.testing.assert_close(J.to_dense(), expected)
    stream = StreamedStack.over(net, list(X.split(1)))
    torch.testing.assert_close(stream.to_dense(), expected.flatten(0, 1))


def test_images_of_one_channel_are_no_batches_of_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softmax(1)).eval()
    with pytest.raises(ArgumentError, match=ELSE):
        JacobianOperator(net, torch.randn(4, 1, 6, 6), batch_dims=1)


class OneText(nn.Module):
    """Takes one text by its size, so that a batch of one passes as well."""

    def forward(self, x):
        return torch.stack([x, x.flip(0)]).view(2, 5, 4)


def test_a_network_of_single_points_is_given_these_as_a_function():
    net, X = OneText().eval(), torch.randn(3, 5, 4)
    with pytest.raises(ArgumentError, match=r"or lambda x: fn\(x\) if a point without"):
        JacobianOperator(net, X, batch_dims=1)
    J = JacobianOperator(lambda x: net(x), X, batch_dims=1)
    torch.testing.assert_close(J.value[1], net(X[1]))


def test_a_transform_of_a_network_is_a_function_of_one_point():
    torch.manual_seed(0)
    net, X = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double().eval(), torch.randn(4, 3).double()
    J = JacobianOperator(torch.func.jacrev(net), X, batch_dims=1)
    assert J.shape == (4, 6, 3)


def test_a_random_network_is_named_as_such():
    class Random(nn.Module):
        def forward(self, x):
            return x * torch.rand(8)

    with pytest.raises(ArgumentError, match="two different values at the same point"):
        JacobianOperator(Random().eval(), torch.ones(3, 8), batch_dims=1)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x, mask):
        return self.linear(x) * mask[..., None]


def masked(count=5):
    torch.manual_seed(0)
    lengths = torch.arange(1, count + 1)[:, None]
    return Masked().double().eval(), torch.randn(count, 6, 4).double(), torch.arange(6) < lengths


EACH = "one for each of the points|a mask for each"


def test_a_mask_for_each_point_is_refused():
    net, X, mask = masked()
    for given in (mask, mask.double()):
        with pytest.raises(ArgumentError, match=EACH):
            JacobianOperator(net, X, kwargs={"mask": given}, batch_dims=1)
        with pytest.raises(ArgumentError, match=EACH):
            JacobianOperator(net, X, args=(given,), batch_dims=1)
    with pytest.raises(ArgumentError, match=EACH):
        JacobianOperator(functools.partial(net, mask=mask), X, batch_dims=1)
    with pytest.raises(ArgumentError, match=EACH):
        StreamedStack.over(functools.partial(net, mask=mask), X)
    f, z = layer_map(net, {"x": X, "mask": mask}, to="output", wrt="x")
    with pytest.raises(ArgumentError, match=EACH):
        JacobianOperator(f, z, batch_dims=1)


def test_a_mask_for_all_points_is_common_to_them():
    net, X, mask = masked()
    J = JacobianOperator(net, X, kwargs={"mask": mask[2]}, batch_dims=1)
    assert J.shape == (5, 18, 24)
    torch.testing.assert_close(J.value, net(X, mask[2]).detach())
    every = JacobianOperator(lambda x, mask: net(x, mask), X, args=(mask,), batch_dims=1)
    assert every.shape == (5, 90, 24)


def test_at_other_points_a_mask_for_each_is_refused_as_well():
    net, X, mask = masked()
    J = JacobianOperator(net, X[:3], kwargs={"mask": mask}, batch_dims=1)
    with pytest.raises(ArgumentError, match=EACH):
        J.at(X)


def test_the_parameters_of_a_model_are_one_point():
    with pytest.raises(ArgumentError, match="batch_dims=1 must be 0: the parameters are one point"):
        JacobianOperator.wrt_parameters(
            nn.Linear(3, 3), torch.ones(1, 3), names="bias", batch_dims=1
        )


def test_a_stream_takes_all_tensors_of_a_value():
    X = torch.arange(1.0, 7.0).reshape(3, 2)
    stream = StreamedStack.over(lambda x: (x, x**2), X)
    assert stream.shape == (12, 2)
    expected = torch.cat([torch.cat([torch.eye(2), torch.diag(2 * x)]) for x in X])
    torch.testing.assert_close(stream.to_dense(), expected)


def test_points_with_a_value_of_one_number_that_is_not_finite_are_named():
    X = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    with pytest.raises(NonFiniteError, match="at point 1 of the batch"):
        JacobianOperator(lambda x: x.sum().log(), X, batch_dims=1)


class PerPoint:
    def __init__(self, func):
        self.func = func

    def __call__(self, x):
        return self.func(x[None])[0]


class WithMethod(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.eval()

    def forward(self, X):
        return self.net(X)

    def one(self, x):
        return self(x[None])[0]


@pytest.mark.parametrize("wrapped", [PerPoint, lambda net: WithMethod(net).one])
def test_what_takes_one_point_and_calls_a_network_is_a_function_of_its_own(wrapped):
    net, X = made(OTHERS, "mean of tokens", torch.float64)
    J = JacobianOperator(wrapped(net), X, batch_dims=1)
    torch.testing.assert_close(J.to_dense(), jacobians_of_batches(net, X))
