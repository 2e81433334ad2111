"""Reverse passes of strided first layers, by the phases of their results."""

import pytest
import torch
from support.agreement import Fn, check_products
from torch import nn
from torch.nn.functional import pad

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace


def conv(size=3, channels=3, **options):
    return nn.Conv2d(channels, 5, size, **options)


def unevenly(*amounts, **options):
    return lambda: Fn(lambda x, c: c(pad(x, amounts)), conv(**options))


NETS = {
    "stride 2": lambda: conv(stride=2, padding=1),
    "kernel of one stride": lambda: conv(2, stride=2),
    "kernel below the stride": lambda: conv(2, stride=3),
    "one pixel of many": lambda: conv(1, stride=3),
    "AlexNet's first": lambda: conv(11, stride=4, padding=2),
    "strides of two kinds": lambda: conv((3, 5), stride=(2, 3), padding=(1, 0)),
    "stride along one": lambda: conv(3, stride=(1, 2), padding=1),
    "padding above the kernel": lambda: conv(2, stride=2, padding=3),
    "pixels left over": lambda: conv(3, stride=4),
    "one channel": lambda: conv(3, 1, stride=2),
    "uneven padding": unevenly(0, 1, 0, 1, stride=2),
    "uneven padding of a large kernel": unevenly(1, 2, 1, 2, size=5, stride=2),
    "uneven padding in one dimension": unevenly(0, 1, 1, 1, stride=2),
    "padding on one side only": unevenly(2, 0, stride=2),
    "then others": lambda: nn.Sequential(
        conv(stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU6(), nn.Conv2d(5, 4, 3, stride=2)
    ),
    "transposed layer": lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, output_padding=1),
    "transposed layer, more than its kernel": lambda: nn.ConvTranspose2d(
        3, 2, 2, stride=3, padding=0, output_padding=2
    ),
}


def problem(name):
    torch.manual_seed(0)
    net = NETS[name]().eval().double()
    channels = next(p for p in net.parameters() if p.ndim == 4).shape
    count = channels[0] if "transposed" in name else channels[1]
    return net, torch.randn(1, count, 12, 13, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_both_products_equal_the_dense_jacobian(name, dtype, dense):
    net, x = problem(name)
    expected = dense(net, x)
    check_products(JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace"), expected)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Conv1d(2, 4, 5, stride=3, padding=1), (1, 2, 14)),
        (lambda: nn.Conv3d(1, 3, 3, stride=2, padding=1), (1, 1, 5, 4, 6)),
        (lambda: nn.Conv2d(3, 4, 3, stride=2), (3, 7, 7)),
        (lambda: nn.Conv2d(3, 4, 3, stride=2), (2, 3, 7, 7)),
    ],
    ids=["1-d", "3-d", "no batch", "two images"],
)
def test_other_shapes(build, shape, dense):
    torch.manual_seed(0)
    net, x = build().double(), torch.randn(shape, dtype=torch.float64)
    expected = dense(net, x)
    check_products(JacobianOperator(net.float(), x.float(), derivatives="trace"), expected)


@pytest.mark.parametrize(
    ("name", "dtype", "transposed"),
    [
        ("stride 2", torch.float32, False),
        ("stride along one", torch.float32, False),
        ("transposed layer", torch.float32, False),
        ("transposed layer", torch.float64, True),
    ],
)
def test_no_transposed_convolution_is_left_in_float32(name, dtype, transposed):
    net, x = problem(name)
    recording = Trace(net.to(dtype), x.to(dtype)).recording
    found = [
        node.args[6]
        for side in (recording.outputs[0].jvp, recording.outputs[0].vjp)
        for node in side.graph.graph.nodes
        if node.target is torch.ops.aten.convolution.default
    ]
    assert len(found) == 2
    assert any(found) == transposed


def test_a_batch_of_points():
    net, x = problem("then others")
    net, X = net.float(), torch.stack([x, -x]).float()
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    unit = torch.eye(J.shape[1])
    for z, images in zip(X, J.T @ unit, strict=True):
        alone = JacobianOperator(net, z, derivatives="trace")
        torch.testing.assert_close(images, alone.T @ unit)


def test_many_channels_stay_transposed():
    net = nn.Conv2d(5, 3, 3, stride=2)
    recording = Trace(net, torch.randn(1, 5, 7, 7)).recording
    nodes = recording.outputs[0].vjp.graph.graph.nodes
    assert any(node.args[6] for node in nodes if node.target is torch.ops.aten.convolution.default)


def test_kernels_are_cut_up_once_and_not_at_every_point():
    net, x = problem("stride 2")
    recording = Trace(net.float(), x.float()).recording
    assert not any("flip" in str(node.target) for node in recording.primal.graph.nodes)
