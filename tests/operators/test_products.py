"""J V and J' U are the products with the dense Jacobian, for every kind of layer."""

import copy

import pytest
import torch
from support.batch_problems import DTYPES, TOLERANCE, mlp
from torch import nn

from jvpsvd import JacobianOperator


class Residual(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return x + self.body(x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return weights @ v


class LastHidden(nn.Module):
    def __init__(self, recurrent):
        super().__init__()
        self.recurrent = recurrent

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


def convnet():
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, groups=2),
        norm,
        nn.ReLU(inplace=True),
        Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.SiLU())),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 1, bias=False),
        nn.ReLU6(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    return net, (1, 2, 6, 6)


def strided_convnet():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.GroupNorm(2, 4),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
    )
    return net, (1, 3, 4, 4)


def transformer_mlp():
    return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)), (2, 6)


def attention():
    return nn.Sequential(nn.LayerNorm(4), Residual(Attention(4)), nn.Softmax(-1)), (1, 3, 4)


def in_place_first():
    return nn.Sequential(nn.LeakyReLU(0.1, inplace=True), nn.Linear(4, 3)), (2, 4)


NETWORKS = [
    mlp,
    convnet,
    strided_convnet,
    transformer_mlp,
    attention,
    in_place_first,
]


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", NETWORKS)
def test_both_products_equal_the_dense_jacobian(build, dtype, derivatives, dense, eye):
    torch.manual_seed(0)
    net, shape = build()
    net.eval()
    x = torch.randn(shape, dtype=torch.float64)
    expected = dense(copy.deepcopy(net).double(), x)
    J = JacobianOperator(net.to(dtype), x.to(dtype), derivatives=derivatives)

    m, n = J.shape
    assert (m, n) == tuple(expected.shape)
    scale = TOLERANCE[dtype] * expected.abs().max()
    assert (J.matmat(eye(n, dtype)).double() - expected).abs().max() < scale
    assert (J.rmatmat(eye(m, dtype)).double() - expected.T).abs().max() < scale


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_recurrent_network(derivatives, dense, eye):
    torch.manual_seed(0)
    net = LastHidden(nn.LSTM(3, 4, batch_first=True)).eval()
    net.double()  # float32 has no forward mode
    x = torch.randn(1, 3, 3, dtype=torch.float64)
    expected = dense(net, x)
    J = JacobianOperator(net, x, derivatives=derivatives)
    torch.testing.assert_close(J @ eye(9, x.dtype), expected)
    torch.testing.assert_close(J.T @ eye(4, x.dtype), expected.T)


FUNCTIONS = {
    "identity": lambda x: x,
    "view": lambda x: x.view(-1),
    "transposed view": lambda x: x.view(4, 3).T,
    "output of no dimension": lambda x: (x**3).sum(),
    "constant": lambda x: torch.ones(2, dtype=x.dtype),
    "half constant": lambda x: torch.cat([x.reshape(-1), torch.ones(1, dtype=x.dtype)]),
    "expanded": lambda x: x.sum(0).expand(2, 4),
    "broadcast": lambda x: x + x.sum(1, keepdim=True) * x,
    "sorted": lambda x: x.reshape(-1).sort().values,
    "gathered": lambda x: x.reshape(-1)[x.reshape(-1).argsort()] ** 2,
    "where": lambda x: torch.where(x > 0, x**2, x),
    "fourier": lambda x: torch.fft.rfft(x).abs(),
    "outer": lambda x: torch.einsum("ij,kl->il", x, x),
    "detached factor": lambda x: x * x.detach().sum(),
    "cumulative": lambda x: x.cumsum(0).cumprod(1),
}


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_with_odd_outputs(name, derivatives, dense, eye):
    torch.manual_seed(1)
    fn = FUNCTIONS[name]
    x = torch.randn(3, 4, dtype=torch.float64)
    expected = dense(fn, x)
    J = JacobianOperator(fn, x, derivatives=derivatives)
    m, n = J.shape
    torch.testing.assert_close(J.matmat(eye(n, x.dtype)), expected)
    torch.testing.assert_close(J.rmatmat(eye(m, x.dtype)), expected.T)


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize(
    "x",
    [
        torch.tensor(2.0),
        torch.tensor([0.5]),
        torch.arange(6.0).reshape(3, 2).T,
        torch.arange(12.0)[::3],
        torch.ones(1).expand(4),
        torch.arange(48.0).reshape(1, 3, 4, 4).to(memory_format=torch.channels_last),
    ],
    ids=["no dimension", "one element", "transposed", "strided", "expanded", "channels last"],
)
def test_points_of_any_shape_and_layout(x, derivatives, dense, eye):
    def fn(z):
        return (z.reshape(-1) ** 2).cumsum(0)

    J = JacobianOperator(fn, x, derivatives=derivatives)
    expected = dense(fn, x.contiguous())
    assert J.shape == (x.numel(), x.numel())
    torch.testing.assert_close(J.matmat(eye(x.numel(), x.dtype)), expected)
    torch.testing.assert_close(J.rmatmat(eye(x.numel(), x.dtype)), expected.T)


def test_the_point_is_a_copy_and_later_changes_of_x_do_not_move_it():
    x = torch.tensor([1.0, 2.0])
    J = JacobianOperator(lambda z: z**2, x)
    x.mul_(100)
    assert J.point.tolist() == [1.0, 2.0]
    assert (J @ torch.ones(2)).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_function_that_works_in_place_leaves_x_alone(derivatives):
    def fn(z):
        z.relu_()
        return 3 * z

    x = torch.tensor([-1.0, 2.0])
    J = JacobianOperator(fn, x, derivatives=derivatives)
    assert (J @ torch.ones(2)).tolist() == [0.0, 3.0]
    assert (J.T @ torch.ones(2)).tolist() == [0.0, 3.0]
    assert x.tolist() == [-1.0, 2.0]
    assert J.value.tolist() == [0.0, 6.0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_grad_modes_of_the_caller_make_no_difference(mode, derivatives):
    net = nn.Linear(3, 2)
    with mode():
        J = JacobianOperator(net, torch.ones(3), derivatives=derivatives)
        forward, reverse = J @ torch.eye(3), J.T @ torch.eye(2)
    torch.testing.assert_close(forward.clone(), net.weight.detach())
    torch.testing.assert_close(reverse.clone(), net.weight.detach().T)
    assert not forward.requires_grad
    assert not reverse.requires_grad
