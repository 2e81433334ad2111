"""Slopes are taken once a point, and multiplied in place only where nothing else reads."""

import pytest
import torch
from support.agreement import Fn, check_products
from support.thinned import thinned
from torch import nn
from torch.nn import functional

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace

ACTIVATIONS = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(-0.3, 0.4),
    "LeakyReLU": nn.LeakyReLU(0.2),
    "Threshold": nn.Threshold(0.3, -7.0),
    "negative Threshold": nn.Threshold(-0.3, 2.0),
    "Hardswish": nn.Hardswish(),
    "Hardshrink": nn.Hardshrink(0.2),
    "Softshrink": nn.Softshrink(0.2),
    "clamp": Fn(lambda x: x.clamp(-0.3, 0.4)),
    "maximum": Fn(lambda x: torch.maximum(x, -0.5 * x)),
}

SMOOTH = {
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU(approximate="tanh"),
    "SiLU": nn.SiLU(),
    "Mish": nn.Mish(),
}


def conv(count=3, channels=4, **options):
    return nn.Conv2d(count, channels, 3, padding=1, **options)


def two_reluses(x, c):
    y = c(x)
    return y.relu() * functional.relu6(y - 0.1)


def seen_through_a_view(x, c):
    y = c(x)
    return y.view(1, 4, -1).relu().flatten() + y.flatten()


def same_convolution_twice(x, c):
    return c(x).relu().sum(1) + c(x).tanh().sum(1)


NETS = {
    "between convolutions": lambda: nn.Sequential(conv(), nn.ReLU(), conv(4)),
    "batch norm": lambda: nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU6(), conv(4)),
    "first": lambda: nn.Sequential(nn.ReLU(), conv()),
    "first and last": lambda: nn.Sequential(nn.ReLU(), conv(), nn.ReLU()),
    "alone": lambda: nn.ReLU(),
    "twice": lambda: nn.Sequential(conv(), nn.ReLU(), nn.Hardtanh(-1, 0.5), conv(4)),
    "residual of the convolution": lambda: Fn(lambda x, c: (y := c(x)).relu() + y, conv()),
    "other side first": lambda: Fn(lambda x, c: (y := c(x)) + y.relu(), conv()),
    "residual of the input": lambda: Fn(lambda x, c: x + c(x).relu(), conv(3, 3)),
    "residual before": lambda: Fn(lambda x, c: (x + c(x)).relu(), conv(3, 3)),
    "residual of the slope": lambda: Fn(
        lambda x, c, d: (y := c(x).relu()) + d(y).relu(), conv(3, 4), conv(4, 4)
    ),
    "two of one": lambda: Fn(two_reluses, conv()),
    "seen through a view": lambda: Fn(seen_through_a_view, conv()),
    "convolution and itself": lambda: Fn(
        lambda x, c: torch.cat([(y := c(x)), y.relu(), y]), conv()
    ),
    "the same convolution twice": lambda: Fn(same_convolution_twice, conv()),
    "broadcast": lambda: Fn(
        lambda x, c: c(x).expand(2, -1, -1, -1).relu() * torch.ones(2, 1, 1, 1, dtype=x.dtype),
        conv(),
    ),
    "depthwise": lambda: nn.Sequential(conv(3, 3, groups=3), nn.ReLU(), conv(3, 3, groups=3)),
    "strided": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2)
    ),
    "linear": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU6()),
    "max pool": lambda: nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), conv(4), nn.ReLU()),
} | {
    f"after a convolution: {name}": lambda act=act: nn.Sequential(conv(), act, conv(4))
    for name, act in (ACTIVATIONS | SMOOTH).items()
}


def problem(build, dtype=torch.float64):
    torch.manual_seed(0)
    return build().eval().to(dtype), torch.randn(1, 3, 4, 4, dtype=torch.float64)


@thinned("name, dtype", list(NETS), [torch.float32, torch.float64], keep=2)
def test_both_products_equal_the_dense_jacobian(name, dtype, dense):
    net, x = problem(NETS[name])
    expected = dense(net, x)
    check_products(JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace"), expected)


@pytest.mark.parametrize("name", NETS)
def test_products_change_neither_the_block_nor_what_is_kept(name):
    net, x = problem(NETS[name], torch.float32)
    J = JacobianOperator(net, x.float(), derivatives="trace")
    for product, rows in ((J.matmat, J.shape[1]), (J.rmatmat, J.shape[0])):
        for block in (torch.randn(rows, 5), torch.randn(5, rows).T, torch.randn(rows, 1)):
            before = block.clone()
            first = product(block)
            kept = first.clone()
            second = product(block)
            assert block.equal(before)
            assert first.equal(kept)
            assert second.equal(first)


@pytest.mark.parametrize("name", NETS)
def test_a_batch_of_points(name, dense):
    net, x = problem(NETS[name])
    X = torch.stack([x, -x, x.flip(-1)])
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    m, n = J.shape[1:]
    for _ in range(2):
        forward, reverse = J @ torch.eye(n, dtype=x.dtype), J.T @ torch.eye(m, dtype=x.dtype)
        expected = torch.stack([dense(net, z) for z in X])
        torch.testing.assert_close(forward, expected)
        torch.testing.assert_close(reverse, expected.mT)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_slope_where_an_entry_stands_on_a_threshold(name, dense):
    """The convolution is the identity, so that what it gives is known to the last bit."""
    identity = nn.Conv2d(1, 1, 1, bias=False).double()
    nn.init.ones_(identity.weight)
    points = torch.tensor([0.0, -0.0, 0.3, -0.3, 0.4, 0.2, -0.2, 6.0, 3.0, -3.0, 1.0, -1.0])
    x = points.double().reshape(1, 1, 3, 4)
    net = nn.Sequential(identity, ACTIVATIONS[name]).eval()
    J = JacobianOperator(net, x, derivatives="trace")
    expected = dense(net, x)
    assert J.matmat(torch.eye(12, dtype=x.dtype)).equal(expected)
    assert J.rmatmat(torch.eye(12, dtype=x.dtype)).equal(expected.T)


def targets(graph):
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_the_mask_is_made_once_per_point_and_multiplied_in_place():
    net, x = problem(NETS["between convolutions"])
    recording = Trace(net, x).recording
    for side in (recording.outputs[0].jvp, recording.outputs[0].vjp):
        names = targets(side.graph.graph)
        assert names == ["aten.convolution.default", "aten.mul_.Tensor", "aten.convolution.default"]
    assert targets(recording.primal.graph).count("aten.threshold_backward.default") == 1


@pytest.mark.parametrize("name", ["residual of the convolution", "other side first", "first"])
def test_nothing_else_is_overwritten(name):
    net, x = problem(NETS[name])
    recording = Trace(net, x).recording
    assert "aten.mul.Tensor" in targets(recording.outputs[0].jvp.graph.graph)
    assert "aten.mul_.Tensor" not in targets(recording.outputs[0].jvp.graph.graph)


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_slopes_are_computed_once_per_point(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), SMOOTH[name], nn.Linear(4, 2)).eval()
    output = Trace(net, torch.randn(4)).recording.outputs[0]
    assert not any("backward" in target for target in targets(output.jvp.graph.graph))
    assert not any("backward" in target for target in targets(output.vjp.graph.graph))


def test_what_another_output_reads_is_not_overwritten(dense):
    net, x = problem(lambda: conv())

    def both(z):
        y = net(z)
        return y.relu(), y, y.relu().sum(1)

    n = x.numel()
    for index, derivative in enumerate(Trace(both, x).at(x)):
        J = JacobianOperator.from_linear_map(derivative)
        expected = dense(lambda z, index=index: both(z)[index], x)
        torch.testing.assert_close(J @ torch.eye(n, dtype=x.dtype), expected)
        torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=x.dtype), expected.T)
