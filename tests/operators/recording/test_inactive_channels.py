"""Channels that are inactive over a whole image are left out, and no product changes."""

import pytest
import torch
from support.agreement import Fn, check_products
from torch import nn
from torch.nn import functional

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace
from jvpsvd.operators.recording.passes.inactive_channels import (
    Chain,
    ChannelCache,
    ChannelGraph,
    Use,
)

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
    "one kernel twice": lambda: Fn(
        lambda x, a, b, c: c(b(b(a(x).relu()).relu()).relu()),
        conv(3, WIDE),
        conv(WIDE, WIDE),
        conv(WIDE, 2),
    ),
    "scaled with channels last": lambda: Fn(
        lambda x, a, b: b(
            (a(x).relu().permute(0, 2, 3, 1) * torch.linspace(1, 2, WIDE).to(x)).permute(0, 3, 1, 2)
        ),
        conv(3, WIDE),
        conv(WIDE, 2),
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
    "no batch": lambda: Fn(lambda x, a, b: b(a(x[0]).relu())[None], conv(3, WIDE), conv(WIDE, 2)),
    "smooth": lambda: nn.Sequential(conv(3, WIDE), nn.Tanh(), conv(WIDE, 2)),
}


def problem(build, inactive=2 / 3, dtype=torch.float64):
    """A network with this share of its wide channels inactive at every layer, and a point."""
    torch.manual_seed(0)
    net = build().eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
        bias = getattr(layer, "bias", None)
        if bias is not None and len(bias) == WIDE:
            with torch.no_grad():
                bias[torch.randperm(WIDE)[: round(inactive * WIDE)]] = -100.0
    return net.to(dtype), torch.randn(1, 3, 5, 6, dtype=torch.float64)


def sides(net, x):
    """Both product graphs of a recording, each with what it needs at x."""
    recording = Trace(net, x).recording
    _, kept = recording.primal(x, *recording.constants.values().tensors)
    return [
        (side, tuple(kept[i] for i in side.saved))
        for side in (recording.outputs[0].jvp, recording.outputs[0].vjp)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS | UNCUT)
def test_both_products_equal_the_dense_jacobian(name, dtype, dense):
    net, x = problem((NETS | UNCUT)[name])
    expected = dense(net, x)
    assert expected.abs().max() > 0
    check_products(JacobianOperator(net.to(dtype), x.to(dtype), derivatives="trace"), expected)


OTHER_SHAPES = {
    "1-d": (
        lambda: nn.Sequential(nn.Conv1d(3, WIDE, 1), nn.ReLU(), nn.Conv1d(WIDE, 2, 3)),
        (1, 3, 7),
    ),
    "3-d": (
        lambda: nn.Sequential(nn.Conv3d(3, WIDE, 1), nn.ReLU(), nn.Conv3d(WIDE, 2, 2)),
        (1, 3, 3, 4, 2),
    ),
    "3-d, channels last": (
        lambda: Fn(
            lambda x, a, b: b(a(x).relu()).permute(0, 2, 3, 4, 1).reshape(1, -1),
            nn.Conv3d(3, WIDE, 1).to(memory_format=torch.channels_last_3d),
            nn.Conv3d(WIDE, 2, 2).to(memory_format=torch.channels_last_3d),
        ),
        (1, 3, 3, 4, 2),
    ),
    "channels last": (
        lambda: NETS["two in a row"]().to(memory_format=torch.channels_last),
        (1, 3, 5, 6),
    ),
    "two images": (lambda: NETS["two in a row"](), (2, 3, 5, 6)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OTHER_SHAPES)
def test_other_shapes(name, dtype, dense):
    build, shape = OTHER_SHAPES[name]
    net, _ = problem(build)
    x = torch.randn(shape, dtype=torch.float64)
    expected = dense(net, x)
    net, x = net.to(dtype), x.to(dtype)
    assert all(side.reduced.inputs(saved, ChannelCache()) for side, saved in sides(net, x))
    check_products(JacobianOperator(net, x, derivatives="trace"), expected)


def test_a_channel_is_inactive_if_it_is_so_in_all_images(dense):
    net, _ = problem(NETS["strided"], inactive=0.0)
    x = torch.cat([torch.randn(1, 3, 5, 6), torch.zeros(1, 3, 5, 6)]).double()
    with torch.no_grad():
        net[0].bias[:] = -1e-3  # inactive over the second image, and over none of the first
        net[0].bias[16:] = -100.0
    check_products(JacobianOperator(net, x, derivatives="trace"), dense(net, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETS)
def test_kernels_lose_the_inactive_channels(name, dtype):
    net, x = problem(NETS[name], dtype=dtype)
    both = sides(net, x.to(dtype))
    if dtype == torch.float64 and name in ("strided", "uneven padding"):
        both = both[:1]  # the reverse pass is no convolution there
    for side, saved in both:
        fewer = side.reduced.inputs(saved, ChannelCache())
        assert fewer is not None
        kernels = [value for value in fewer if getattr(value, "ndim", 0) == 4]
        assert all(WIDE not in value.shape[:2] for value in kernels)
        assert any(16 in value.shape[:2] for value in kernels)


@pytest.mark.parametrize("name", UNCUT)
def test_what_branches_or_mixes_channels_keeps_them(name):
    net, x = problem(UNCUT[name])
    assert all(side.reduced is None for side, _ in sides(net, x))


def one_sign_or_the_other():
    """48 of 64 channels are active where the point is positive, and 16 where it is negative."""
    net = nn.Sequential(conv(1, 64, bias=False), nn.ReLU(), conv(64, 2, 3)).double()
    with torch.no_grad():
        net[0].weight[:48], net[0].weight[48:] = 1.0, -1.0
    return net, torch.ones(1, 1, 3, 3, dtype=torch.float64)


@pytest.mark.parametrize("example", [1.0, -1.0, "both"])
def test_which_channels_are_inactive_is_seen_at_each_point(example, dense):
    net, ones = one_sign_or_the_other()
    both = torch.randn(1, 1, 3, 3, dtype=torch.float64)
    trace = Trace(net, both if example == "both" else example * ones)
    graph = trace.recording.outputs[0].jvp
    for x, count in ((ones, 48), (-ones, 16), (both, None)):
        _, kept = trace.recording.primal(x, *trace.recording.constants.values().tensors)
        fewer = graph.reduced.inputs([kept[i] for i in graph.saved], ChannelCache())
        assert (fewer is None) == (count is None)
        assert count is None or any(getattr(v, "shape", (0,))[0] == count for v in fewer)
        check_products(JacobianOperator.from_linear_map(trace.at(x)[0]), dense(net, x))


def test_two_depths_share_what_is_selected(dense):
    net, x = problem(NETS["two in a row"])

    def depths(z):
        y = net[2](net[1](net[0](z)))
        return y, net[4](net[3](y))

    for index, derivative in enumerate(Trace(depths, x).at(x)):
        expected = dense(lambda z, index=index: depths(z)[index], x)
        check_products(JacobianOperator.from_linear_map(derivative), expected)
    (first, saved), (second, _) = (
        (side, [kept[i] for i in side.saved])
        for recording in [Trace(depths, x).recording]
        for kept in [recording.primal(x, *recording.constants.values().tensors)[1]]
        for side in [output.jvp for output in recording.outputs]
    )
    cache = ChannelCache()
    once = first.reduced.inputs(saved, cache)
    again = first.reduced.inputs(saved, cache)
    assert all(a is b for a, b in zip(once, again, strict=True))
    assert second.reduced is not None


def test_a_graph_that_leaves_out_too_much_is_not_used(monkeypatch, dense):
    net, x = problem(NETS["two in a row"])
    honest = ChannelGraph.inputs

    def wrong(self, originals, cache):
        found = honest(self, originals, cache)
        return found and tuple(2 * v if isinstance(v, torch.Tensor) else v for v in found)

    monkeypatch.setattr(ChannelGraph, "inputs", wrong)
    assert all(side.reduced is None for side, _ in sides(net, x))
    check_products(JacobianOperator(net, x, derivatives="trace"), dense(net, x))


def test_nothing_is_left_out_of_operations_as_recorded():
    net, x = problem(NETS["two in a row"])
    recording = Trace(net, x, fold=False).recording
    assert recording.outputs[0].jvp.reduced is None


def test_points_together_keep_all_channels_and_agree_with_each(dense):
    net, x = problem(NETS["inverted residual"])
    X = torch.stack([x, -x, x.flip(-1)])
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    expected = torch.stack([dense(net, z) for z in X])
    torch.testing.assert_close(J @ torch.eye(90, dtype=x.dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(90, dtype=x.dtype), expected.mT)


@pytest.mark.parametrize(
    ("inactive", "kept"),
    [(0, None), (3, None), (20, 48), (48, 16), (63, 16), (64, 16)],
)
def test_channels_are_kept_in_multiples(inactive, kept):
    slopes = torch.ones(1, 64, 2, 2)
    slopes[:, torch.randperm(64)[:inactive]] = 0.0
    slopes[0, :, 0, 0] = 0.0
    chain = Chain(64, (Use(0, 1),), (Use(0, 1),), ())
    found = chain.kept([slopes], ChannelCache())
    if kept is None:
        assert found is None
        return
    assert len(found) == kept
    assert list(found) == sorted(set(found))
    is_open = (slopes != 0).any(-1).any(-1)[0].nonzero().flatten()
    assert set(is_open.tolist()) <= set(found)


def test_fewer_inactive_than_a_sixteenth_stay():
    slopes = torch.ones(1, 512, 1, 1)
    slopes[:, :31] = 0.0
    chain = Chain(512, (Use(0, 1),), (Use(0, 1),), ())
    assert chain.kept([slopes], ChannelCache()) is None
    slopes[:, 31] = 0.0
    assert len(chain.kept([slopes], ChannelCache())) == 480


def test_a_changed_weight_is_refused_though_another_copy_is_used():
    net, x = problem(NETS["two in a row"])
    (J,) = Trace(net, x).at(x)
    J.jvp(x[None])
    with torch.no_grad():
        net[2].weight[:] = 0.0
    with pytest.raises(Exception, match="weights have changed"):
        J.jvp(x[None])
