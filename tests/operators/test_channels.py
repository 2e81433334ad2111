"""Channels that are shut over a whole image are left out, and no product changes."""

import pytest
import torch
from agreement import Fn, check_products
from torch import nn
from torch.nn import functional

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace
from jvpsvd.operators.channels import Chain, Use

WIDE = 48


def conv(count, channels, size=1, **options):
    return nn.Conv2d(count, channels, size, padding=size // 2, **options)


def depthwise(channels=WIDE, **options):
    return conv(channels, channels, 3, groups=channels, **options)


def inverted(x, widen, first, one_by_one, second, narrow):
    """The residual block of MobileNet and EfficientNet-Lite."""
    y = functional.relu6(first(widen(x)))
    return x + narrow(functional.relu6(second(one_by_one(y))))


def padded_unevenly(x, widen, strided, narrow):
    """Stride 2 with the padding of TensorFlow."""
    y = functional.pad(widen(x).relu(), (0, 1, 0, 1))
    return narrow(functional.relu(strided(y)))


NETS = {
    "inverted residual": lambda: Fn(
        inverted,
        conv(3, WIDE, bias=False),
        nn.BatchNorm2d(WIDE),
        depthwise(bias=False),
        nn.BatchNorm2d(WIDE),
        conv(WIDE, 3),
    ),
    "uneven padding": lambda: Fn(
        padded_unevenly,
        conv(3, WIDE),
        nn.Conv2d(WIDE, WIDE, 3, stride=2, groups=WIDE),
        conv(WIDE, 3),
    ),
    "two in a row": lambda: nn.Sequential(
        conv(3, WIDE, 3), nn.ReLU(), conv(WIDE, WIDE), nn.ReLU(), conv(WIDE, 2, 3)
    ),
    "strided": lambda: nn.Sequential(
        nn.Conv2d(3, WIDE, 3, stride=2), nn.ReLU(), nn.Conv2d(WIDE, 4, 2, stride=2)
    ),
    "padded": lambda: nn.Sequential(
        conv(3, WIDE), nn.ReLU(), nn.ZeroPad2d((1, 0, 2, 0)), conv(WIDE, 2, 3)
    ),
    "transposed": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, WIDE, 2), nn.ReLU(), nn.ConvTranspose2d(WIDE, 2, 3, stride=2)
    ),
}
# What has channels, too, and lets none be left out.
UNCUT = {
    "residual inside": lambda: Fn(
        lambda x, a, b: b((y := a(x)).relu() + 0.1 * y), conv(3, WIDE), conv(WIDE, 2)
    ),
    "groups": lambda: nn.Sequential(
        conv(3, WIDE), nn.ReLU(), conv(WIDE, WIDE, groups=4), nn.ReLU(), conv(WIDE, 2)
    ),
    "channels padded": lambda: Fn(
        lambda x, a, b: b(functional.pad(a(x).relu(), (0, 0, 0, 0, 1, 0))),
        conv(3, WIDE),
        conv(WIDE + 1, 2),
    ),
    "flattened": lambda: nn.Sequential(
        conv(3, WIDE), nn.ReLU(), nn.Flatten(), nn.Linear(WIDE * 30, 4)
    ),
    "shuffled": lambda: nn.Sequential(
        conv(3, WIDE), nn.ReLU(), nn.ChannelShuffle(4), conv(WIDE, 2)
    ),
    "smooth": lambda: nn.Sequential(conv(3, WIDE), nn.Tanh(), conv(WIDE, 2)),
}


def problem(build, shut=2 / 3, dtype=torch.float64):
    """A network of which this share of the wide channels is shut at every layer, and a point."""
    torch.manual_seed(0)
    net = build().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
        bias = getattr(layer, "bias", None)
        if bias is not None and len(bias) == WIDE:
            with torch.no_grad():
                bias[torch.randperm(WIDE)[: round(shut * WIDE)]] = -100.0
    return net.to(dtype), torch.randn(1, 3, 5, 6, dtype=torch.float64)


def sides(net, x):
    """Both linear graphs of a recording, each with what it needs at x."""
    recording = Trace(net, x)._recording
    _, kept = recording.primal(x, *recording.constants.values())
    return [
        (side, tuple(kept[i] for i in side.saved))
        for side in (recording.tangents[0], recording.cotangents[0])
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS | UNCUT)
def test_both_products_equal_the_dense_jacobian(name, dtype, dense):
    net, x = problem((NETS | UNCUT)[name])
    expected = dense(net, x)
    assert expected.abs().max() > 0
    check_products(JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace"), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_kernels_lose_the_channels_that_are_shut(name, dtype):
    net, x = problem(NETS[name], dtype=dtype)
    for side, saved in sides(net, x.to(dtype)):
        fewer = side.narrow.inputs(saved)
        assert fewer is not None
        kernels = [value for value in fewer if getattr(value, "ndim", 0) == 4]
        assert all(WIDE not in value.shape[:2] for value in kernels)
        assert any(16 in value.shape[:2] for value in kernels)


@pytest.mark.parametrize("name", UNCUT)
def test_what_branches_or_mixes_channels_keeps_them(name):
    net, x = problem(UNCUT[name])
    assert all(side.narrow is None for side, _ in sides(net, x))


def test_which_channels_are_shut_is_seen_at_each_point(dense):
    net = nn.Sequential(conv(1, 64, bias=False), nn.ReLU(), conv(64, 2, 3)).double()
    with torch.no_grad():
        net[0].weight[:48], net[0].weight[48:] = 1.0, -1.0
    trace = Trace(net, torch.ones(1, 1, 3, 3, dtype=torch.float64))
    for x in (trace._example, -trace._example, trace._example.roll(1).cumsum(-1) - 2):
        (J,) = trace.at(x)
        pushed = J.push(torch.eye(9, dtype=x.dtype).reshape(9, *x.shape)).reshape(9, -1)
        torch.testing.assert_close(pushed.T, dense(net, x))


def test_a_batch_of_points(dense):
    net, x = problem(NETS["inverted residual"])
    X = torch.stack([x, -x, x.flip(-1)])
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    expected = torch.stack([dense(net, z) for z in X])
    torch.testing.assert_close(J @ torch.eye(90, dtype=x.dtype), expected)


@pytest.mark.parametrize(
    ("shut", "kept"),
    [(0, None), (3, None), (20, 48), (48, 16), (63, 16), (64, 16)],
)
def test_channels_are_kept_in_multiples(shut, kept):
    slopes = torch.ones(1, 64, 2, 2)
    slopes[:, torch.randperm(64)[:shut]] = 0.0
    slopes[0, :, 0, 0] = 0.0
    chain = Chain(64, (Use(0, 1),), (Use(0, 1),), ())
    found = chain.kept([slopes])
    if kept is None:
        assert found is None
        return
    assert len(found) == kept
    assert found.equal(found.unique())
    is_open = (slopes != 0).any(-1).any(-1)[0].nonzero().flatten()
    assert set(is_open.tolist()) <= set(found.tolist())


def test_fewer_shut_than_a_sixteenth_stay():
    slopes = torch.ones(1, 512, 1, 1)
    slopes[:, :31] = 0.0
    chain = Chain(512, (Use(0, 1),), (Use(0, 1),), ())
    assert chain.kept([slopes]) is None
    slopes[:, 31] = 0.0
    assert len(chain.kept([slopes])) == 480


def test_a_changed_weight_is_refused_though_another_copy_is_used():
    net, x = problem(NETS["two in a row"])
    (J,) = Trace(net, x).at(x)
    J.push(x[None])
    with torch.no_grad():
        net[2].weight[:] = 0.0
    with pytest.raises(Exception, match="weights have changed"):
        J.push(x[None])
