"""Reverse passes of convolutions are convolutions, and zeros around images are their padding."""

from functools import partial

import pytest
import torch
from support.agreement import Fn, check_products
from support.thinned import thinned
from torch import nn
from torch.nn.functional import conv2d, pad

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace


def ones_and_conv(x, conv):
    return conv(pad(x, (1, 1, 1, 1), value=1.0))


def used_twice(x, conv):
    y = pad(x, (1, 1, 1, 1))
    return conv(y).sum(1) + y[:, 0, 1:-1, 1:-1].tanh()


def two_convolutions_of_one_padding(x, first, second):
    y = pad(x, (1, 1, 2, 2))
    return torch.cat([first(y).flatten(), second(y).flatten()])


def own_kernel(x, conv):
    """The kernel depends on the point, so that the derivative has a term for each."""
    return conv2d(pad(x, (1, 1, 1, 1)), conv(x).mean((0, 2, 3)).reshape(2, 3, 1, 1))


def padded_kernel(x, conv):
    """The direction reaches the convolution through its kernel."""
    return conv2d(x.detach(), pad(conv(x)[:1, :3, :2, :2], (1, 1, 1, 1)))


def cut_and_whole(x, conv):
    y = conv(x)
    return torch.cat([pad(y, (-1, -1, -1, -1)).flatten(), y.flatten()])


def padded(*amounts, **options):
    return lambda: Fn(lambda x, conv: conv(pad(x, amounts)), nn.Conv2d(3, 4, 3, **options))


def cropped(*amounts, **options):
    return lambda: Fn(lambda x, conv: pad(conv(x), amounts), nn.Conv2d(3, 4, 3, **options))


Conv = partial(nn.Conv2d, 3, 6)
Back = partial(nn.ConvTranspose2d, 3, 6)
NETS = {
    "one number for all": lambda: Fn(
        lambda x, c: torch.convolution(
            pad(x, (1, 1, 1, 1)), c.weight, None, [1], [0], [1], False, [0], 1
        ),
        Conv(3),
    ),
    "stride 1": lambda: Conv(3),
    "same": lambda: Conv(3, padding="same"),
    "even kernel, same": lambda: Conv(4, padding="same"),
    "rectangular": lambda: Conv((1, 4), padding=(0, 2)),
    "one by one": lambda: Conv(1),
    "one by one, padded": lambda: Conv(1, padding=1),
    "full": lambda: Conv(3, padding=2),
    "more than full": lambda: Conv(3, padding=3),
    "as large as the image": lambda: Conv(6),
    "dilation": lambda: Conv(3, dilation=2, padding=2),
    "two dilations": lambda: Conv(3, dilation=(1, 2), padding=(1, 0)),
    "stride": lambda: Conv(3, stride=2, padding=1),
    "stride along one": lambda: Conv(3, stride=(1, 2), padding=1),
    "pixels left over": lambda: Conv(3, stride=4),
    "grouped": lambda: Conv(3, groups=3, padding=1),
    "depthwise": lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1),
    "grouped, several inputs": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3, groups=2, padding=1)
    ),
    "grouped, dilated, scaled": lambda: nn.Sequential(
        Conv(3, groups=3, dilation=2, padding=2), nn.BatchNorm2d(6), nn.ReLU()
    ),
    "reflected": lambda: Conv(3, padding=1, padding_mode="reflect"),
    "transposed": lambda: Back(3),
    "transposed, padded": lambda: Back(3, padding=1),
    "transposed, stride": lambda: Back(3, stride=2, padding=1),
    "transposed, output padding": lambda: Back(3, stride=3, padding=1, output_padding=(1, 2)),
    "transposed, dilation": lambda: Back(3, stride=2, dilation=2, output_padding=1),
    "transposed, output padding of a dilation": lambda: Back(2, dilation=3, output_padding=2),
    "transposed, grouped": lambda: Back(3, stride=2, groups=3),
    "transposed, several outputs": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=2)
    ),
    "transposed after padding": lambda: Fn(lambda x, c: c(pad(x, (1, 1, 1, 1))), Back(3)),
    "zeros around": padded(1, 1, 1, 1),
    "zeros around, padded": padded(1, 1, 1, 1, padding=1),
    "zeros around, more than full": padded(2, 2, 1, 1, padding=1),
    "zeros around, strided": padded(1, 1, 1, 1, stride=2),
    "zeros left": padded(1, 0, 1, 0),
    "zeros left, strided": padded(0, 1, 0, 1, stride=2),
    "zeros beside": padded(2, 2),
    "zeros above": padded(0, 0, 1, 1),
    "zeros in one, cut in the other": padded(1, 1, -1, -1),
    "no zeros": padded(0, 0, 0, 0),
    "cut before": padded(-1, -1, -1, -1),
    "cut before, on one side": padded(-1, 0, 0, -2),
    "cut after": cropped(-1, -1, -1, -1, padding=1),
    "cut after, too much": cropped(-2, -2, -1, -1, padding=1),
    "cut after, on one side": cropped(0, -1, 0, -1, padding=1),
    "cut after, strided": cropped(-1, -1, -1, -1, padding=1, stride=2),
    "cut after, transposed": lambda: Fn(lambda x, c: pad(c(x), (-1, -1, -1, -1)), Back(3)),
    "channels of zeros": lambda: Fn(
        lambda x, c: c(pad(x, (0, 0, 0, 0, 1, 1))), nn.Conv2d(5, 4, 3, padding=1)
    ),
    "channels of zeros and more": lambda: Fn(
        lambda x, c: c(pad(x, (1, 1, 1, 1, 0, 2))), nn.Conv2d(5, 4, 3)
    ),
    "images of zeros": lambda: Fn(lambda x, c: c(pad(x, (0, 0, 0, 0, 0, 0, 1, 1))), Conv(3)),
    "ones around": lambda: Fn(ones_and_conv, nn.Conv2d(3, 4, 3)),
    "padding used twice": lambda: Fn(used_twice, nn.Conv2d(3, 4, 3)),
    "two convolutions": lambda: Fn(two_convolutions_of_one_padding, Conv(3), Conv(5, stride=2)),
    "kernel of the point": lambda: Fn(own_kernel, Conv(3)),
    "convolution used twice": lambda: Fn(lambda x, c: c(x).relu() * c(x), Conv(3, padding=1)),
    "padded kernel of the point": lambda: Fn(padded_kernel, Conv(3)),
    "cut and whole": lambda: Fn(cut_and_whole, Conv(3, padding=1)),
    "zero padding module": lambda: nn.Sequential(nn.ZeroPad2d(1), Conv(3), nn.ReLU()),
}
OTHER_DIMENSIONS = {
    "1-d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (1, 2, 7)),
    "1-d, dilated, grouped": (lambda: nn.Conv1d(4, 6, 3, dilation=2, groups=2), (2, 4, 7)),
    "1-d, unbatched": (lambda: nn.Conv1d(2, 3, 3, padding=1), (2, 7)),
    "1-d, zeros around": (
        lambda: Fn(lambda x, c: c(pad(x, (2, 2))), nn.Conv1d(2, 3, 3)),
        (1, 2, 5),
    ),
    "1-d, causal": (lambda: Fn(lambda x, c: c(pad(x, (2, 0))), nn.Conv1d(2, 3, 3)), (1, 2, 5)),
    "1-d, transposed": (lambda: nn.ConvTranspose1d(2, 3, 4, stride=2, padding=1), (1, 2, 5)),
    "2-d, unbatched": (lambda: padded(1, 1, 1, 1)(), (3, 4, 4)),
    "2-d, two images": (lambda: padded(1, 1, 1, 1)(), (2, 3, 4, 4)),
    "3-d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (1, 2, 3, 3, 3)),
    "3-d, depthwise": (lambda: nn.Conv3d(2, 2, (1, 2, 3), groups=2), (1, 2, 2, 3, 3)),
    "3-d, zeros around": (
        lambda: Fn(lambda x, c: c(pad(x, (1, 1, 1, 1, 1, 1))), nn.Conv3d(2, 3, 3)),
        (1, 2, 2, 3, 2),
    ),
    "3-d, zeros around frames": (
        lambda: Fn(lambda x, c: c(pad(x, (1, 1, 1, 1))), nn.Conv3d(2, 3, (1, 3, 3))),
        (1, 2, 2, 3, 2),
    ),
    "3-d, transposed": (
        lambda: nn.ConvTranspose3d(2, 3, 2, stride=2, output_padding=(0, 1, 0)),
        (1, 2, 2, 2, 2),
    ),
}
PROBLEMS = {name: (build, (1, 3, 6, 6)) for name, build in NETS.items()} | OTHER_DIMENSIONS


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@thinned("name, dtype", list(PROBLEMS), [torch.float32, torch.float64], keep=2)
def test_both_products_equal_the_dense_jacobian(name, dtype, dense):
    torch.manual_seed(0)
    build, shape = PROBLEMS[name]
    net = build().eval().double()
    x = torch.randn(shape, dtype=torch.float64)
    expected = dense(net, x)
    J = JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace")
    check_products(J, expected)


def operations(net, *shape, dtype=torch.float64):
    """How often each operation stands in the forward and in the reverse graph of a network."""
    trace = Trace(net.eval(), torch.randn(shape, dtype=dtype))
    counts = []
    for side in (trace.recording.outputs[0].jvp, trace.recording.outputs[0].vjp):
        nodes = [n for n in side.graph.graph.nodes if n.op == "call_function"]
        names = [str(getattr(n.target, "overloadpacket", n.target.__name__)) for n in nodes]
        counts.append({name.removeprefix("aten."): names.count(name) for name in names})
    return counts


@pytest.mark.parametrize(
    "name",
    [
        "stride 1",
        "same",
        "dilation",
        "grouped",
        "depthwise",
        "transposed, output padding",
    ],
)
def test_the_reverse_pass_is_one_convolution(name):
    reverse = operations(NETS[name]().double(), 1, 3, 6, 6)[1]
    assert reverse == {"convolution": 1}


STRIDED = {
    "depthwise": lambda: nn.Conv2d(6, 6, 3, stride=2, groups=6, padding=1),
    "stride": lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1),
    "stride along one": lambda: nn.Conv2d(6, 4, 3, stride=(1, 2), padding=1),
    "pixels left over": lambda: nn.Conv2d(6, 4, 3, stride=4),
    "more than full": lambda: nn.Conv2d(6, 4, 3, padding=3),
}


@pytest.mark.parametrize("name", STRIDED)
def test_other_reverse_passes_are_transposed_in_float32_alone(name, dense):
    net = STRIDED[name]()
    _, reverse = operations(net, 1, 6, 7, 6, dtype=torch.float32)
    assert reverse["convolution"] == 1
    assert "convolution_backward" not in reverse
    stays = {"convolution_backward": 1, "getitem": 1}
    assert operations(net.double(), 1, 6, 7, 6)[1] == stays
    x = torch.randn(1, 6, 7, 6, dtype=torch.float64)
    expected = dense(net, x)
    check_products(JacobianOperator(net, x, derivatives="trace"), expected)
    check_products(JacobianOperator(net.float(), x.float(), derivatives="trace"), expected)


@pytest.mark.parametrize(
    "name", ["zeros around", "zeros around, padded", "zeros beside", "zero padding module"]
)
def test_no_padding_the_same_on_both_sides_is_left(name):
    for side in operations(NETS[name]().double(), 1, 3, 6, 6):
        assert side["convolution"] == 1
        assert "constant_pad_nd" not in side
        assert "convolution_backward" not in side


UNEVEN = {
    "depthwise": lambda: Fn(
        lambda x, c: c(pad(x, (0, 1, 0, 1))), nn.Conv2d(3, 3, 3, stride=2, groups=3)
    ),
    "few channels": padded(0, 1, 0, 1, stride=2),
    "on top of padding": padded(1, 3, 2, 1, padding=1),
    "in one dimension": padded(1, 1, 0, 2),
    "large kernel": lambda: Fn(
        lambda x, c: c(pad(x, (1, 2, 1, 2))), nn.Conv2d(3, 3, 5, stride=2, groups=3)
    ),
    "stride 1": padded(2, 1, 1, 0),
}
NOT_GROWN = {
    "many channels": lambda: Fn(lambda x, c: c(pad(x, (0, 1, 0, 1))), nn.Conv2d(5, 4, 3)),
    "dilated": padded(0, 1, 0, 1, dilation=2),
    "by the whole kernel": padded(0, 3, 0, 3),
    "one number for all": lambda: Fn(
        lambda x, c: torch.convolution(
            pad(x, (0, 1, 0, 1)), c.weight, None, [1], [0, 0], [1], False, [0], 1
        ),
        Conv(3),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNEVEN | NOT_GROWN)
def test_uneven_padding_changes_no_product(name, dtype, dense):
    torch.manual_seed(0)
    net = (UNEVEN | NOT_GROWN)[name]().eval().double()
    x = torch.randn(1, 5 if name == "many channels" else 3, 6, 7, dtype=torch.float64)
    expected = dense(net, x)
    check_products(JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace"), expected)


@pytest.mark.parametrize("name", UNEVEN | NOT_GROWN)
def test_kernels_of_few_channels_grow_in_float32(name):
    shape = (1, 5 if name == "many channels" else 3, 6, 7)
    forward, _ = operations((UNEVEN | NOT_GROWN)[name](), *shape, dtype=torch.float32)
    assert ("constant_pad_nd" in forward) == (name in NOT_GROWN)


def test_what_is_cut_from_a_depthwise_reverse_pass_is_not_made():
    _, reverse = operations(UNEVEN["depthwise"](), 1, 3, 6, 7, dtype=torch.float32)
    assert reverse["convolution"] == 1
    assert "constant_pad_nd" not in reverse


@pytest.mark.parametrize("name", ["zeros left", "channels of zeros", "cut before"])
def test_other_padding_is_left(name):
    for side in operations(NETS[name]().double(), 1, 3, 6, 6):
        assert side["constant_pad_nd"] == 1


def test_one_padding_of_two_convolutions_is_left_in_neither():
    forward, _ = operations(NETS["two convolutions"]().double(), 1, 3, 6, 6)
    assert forward["convolution"] == 2
    assert "constant_pad_nd" not in forward


def test_kernels_are_turned_once_and_not_at_every_point():
    recording = Trace(NETS["stride 1"](), torch.randn(1, 3, 6, 6)).recording
    graphs = (recording.primal.graph, recording.outputs[0].vjp.graph.graph)
    assert not any("flip" in str(node.target) for graph in graphs for node in graph.nodes)


def test_changed_kernels_are_turned_anew(dense):
    conv = nn.Conv2d(3, 4, 3, padding=1).double().requires_grad_(False)
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    trace = Trace(conv, x)
    trace.at(x)
    conv.weight.mul_(2).add_(1)
    check_products(JacobianOperator.from_linear_map(trace.at(x)[0]), dense(conv, x))


def test_other_depths_may_read_what_is_padded_or_cut(dense):
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3, padding=1).double(), nn.Conv2d(4, 2, 3).double()
    x = torch.randn(1, 3, 6, 6, dtype=torch.float64)

    def depths(z):
        y = first(z)
        padded = pad(y, (1, 1, 1, 1))
        return y, padded, second(padded).relu(), pad(y, (-1, -1, -1, -1))

    for index, derivative in enumerate(Trace(depths, x).at(x)):
        expected = dense(lambda z, index=index: depths(z)[index], x)
        check_products(JacobianOperator.from_linear_map(derivative), expected)
