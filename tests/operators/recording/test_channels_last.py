"""Channels last, where float32 is laid out so on the CPU, changes no product."""

import logging

import pytest
import torch
from support.agreement import TOLERANCE, Fn, check_products, in_double
from torch import nn
from torch.nn import functional

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace

SQUARE = (1, 3, 4, 6)


def between(fn, *layers, image=True):
    """A function of an image between two convolutions."""
    after = [nn.Conv2d(4, 2, 3, padding=1)] if image else []
    return lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Fn(fn, *layers), *after)


def then_linear(fn):
    """A function that flattens a (1, 4, 4, 6) image, before a linear layer."""
    return between(lambda x, linear: linear(fn(x)), nn.Linear(96, 5), image=False)


def convnext(x, depthwise, norm, wide, narrow):
    y = depthwise(x).permute(0, 2, 3, 1)
    return x + narrow(functional.gelu(wide(norm(y)))).permute(0, 3, 1, 2)


def squeeze_and_excite(x, squeeze, excite):
    return x * excite(functional.silu(squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


def attend(x):
    """Two heads of attention over the pixels, with views as a ViT has them."""
    n, c, h, w = x.shape
    q = x.view(n, 2, c // 2, h * w).transpose(-1, -2)
    weights = (q @ q.transpose(-1, -2)).softmax(-1)
    return (weights @ q).transpose(1, 2).reshape(n, h * w, c)


def back_to_image(x, project):
    n, c, h, w = x.shape
    return project(attend(x)).transpose(1, 2).view(n, c, h, w)


def unet(x, down, up):
    y = functional.silu(down(x))
    return torch.cat([x, up(y)[..., : x.shape[2], : x.shape[3]]], dim=1)[:, 2:6]


def both_kinds_of_images(x, conv):
    """Four dimensions that are no image: heads and pixels."""
    y = conv(x)
    return y + (y @ y.transpose(-1, -2)).softmax(-1) @ y


NETS = {
    "flatten": then_linear(lambda x: x.flatten(1)),
    "flatten all": then_linear(torch.flatten),
    "view": then_linear(lambda x: x.view(1, -1)),
    "reshape": then_linear(lambda x: x.reshape(-1)),
    "transposed, flattened": then_linear(lambda x: x.transpose(2, 3).flatten(1)),
    "channels last, flattened": then_linear(lambda x: x.permute(0, 2, 3, 1).reshape(1, -1)),
    "rows": between(lambda x, rows: rows(x), nn.Linear(6, 6)),
    "view of other sizes": between(lambda x: x.view(1, 4, 6, 4).sin()),
    "view of other channels": between(lambda x: x.view(1, 8, 2, 6).tanh().view(x.shape)),
    "unfolded": between(lambda x: functional.unfold(x, 2), image=False),
    "strided slices": between(lambda x: x[:, :, ::2, 1::2] ** 2),
    "flipped": between(lambda x: x.flip(1, 3) * x),
    "rolled": between(lambda x: x.roll((1, 1), (2, 3))),
    "chunks of channels": between(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "shuffled channels": between(lambda x: x.view(1, 2, 2, 4, 6).transpose(1, 2).reshape(x.shape)),
    "selected pixel": between(lambda x: x[..., 1, 2], image=False),
    "masked": between(lambda x: torch.where(x > 0, x, x.exp())),
    "ConvNeXt block": between(
        convnext,
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.LayerNorm(4),
        nn.Linear(4, 8),
        nn.Linear(8, 4),
    ),
    "layer norm of images": between(lambda x, norm: norm(x), nn.LayerNorm((4, 4, 6))),
    "batch norm": between(lambda x, norm: norm(x), nn.BatchNorm2d(4)),
    "group norm": between(lambda x, norm: norm(x), nn.GroupNorm(2, 4)),
    "instance norm": between(lambda x, norm: norm(x), nn.InstanceNorm2d(4, affine=True)),
    "max pool": between(lambda x: functional.max_pool2d(x, 2)),
    "overlapping max pool": between(lambda x: functional.max_pool2d(x, 3, 2, 1)),
    "average pool": between(lambda x: functional.avg_pool2d(x, 2)),
    "padded average pool": between(
        lambda x: functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False, ceil_mode=True)
    ),
    "adaptive average pool": between(lambda x: functional.adaptive_avg_pool2d(x, (3, 4))),
    "global average pool": between(lambda x: functional.adaptive_avg_pool2d(x, 1)),
    "adaptive max pool": between(lambda x: functional.adaptive_max_pool2d(x, (3, 4))),
    "mean": between(lambda x: x.mean((2, 3)), image=False),
    "nearest": between(lambda x: functional.interpolate(x, scale_factor=2)),
    "bilinear": between(lambda x: functional.interpolate(x, size=(5, 7), mode="bilinear")),
    "bicubic": between(lambda x: functional.interpolate(x, size=(5, 7), mode="bicubic")),
    "pixel shuffle": between(
        lambda x, conv: conv(functional.pixel_shuffle(x, 2)), nn.Conv2d(1, 4, 2)
    ),
    "pixel unshuffle": between(
        lambda x, conv: conv(functional.pixel_unshuffle(x, 2)), nn.Conv2d(16, 4, 1)
    ),
    "squeeze and excite": between(squeeze_and_excite, nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)),
    "attention": between(lambda x, out: out(attend(x)), nn.Linear(4, 3), image=False),
    "attention and back": between(back_to_image, nn.Linear(4, 4)),
    "attention over images": between(both_kinds_of_images, nn.Conv2d(4, 4, 1)),
    "patches": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 2, stride=2),
        Fn(lambda x, out: out(x.flatten(2).transpose(1, 2)), nn.Linear(4, 3)),
    ),
    "UNet": between(
        unet, nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ConvTranspose2d(6, 4, 2, stride=2)
    ),
    "residual": between(lambda x, conv: x + conv(x).relu(), nn.Conv2d(4, 4, 3, padding=1)),
    "grouped": between(lambda x, conv: conv(x), nn.Conv2d(4, 8, 3, groups=2), image=False),
    "one channel": between(lambda x, a, b: b(a(x)), nn.Conv2d(4, 1, 3), nn.Conv2d(1, 4, 1)),
    "asymmetric padding": between(
        lambda x, conv: conv(functional.pad(x, (0, 1, 2, 0))), nn.Conv2d(4, 4, 3)
    ),
    "padded rows": between(lambda x: functional.pad(x, (1, 2)) ** 2),
    "cut": between(lambda x: functional.pad(x, (-1, 0, 1, -1))),
    "padded channels": between(
        lambda x, c: c(functional.pad(x, (0, 0, 0, 0, 1, 2))), nn.Conv2d(7, 4, 3)
    ),
    "reflected": between(lambda x: functional.pad(x, (1, 1, 1, 1), mode="reflect") ** 2),
    "replicated": between(lambda x: functional.pad(x, (1, 2, 0, 1), mode="replicate") ** 2),
    "SiLU": between(functional.silu),
    "GELU": between(functional.gelu),
    "Hardswish": between(functional.hardswish),
    "Hardsigmoid": between(functional.hardsigmoid),
    "sigmoid": between(torch.sigmoid),
    "ELU": between(functional.elu),
    "Mish": between(functional.mish),
    "softmax over channels": between(lambda x: x.softmax(1)),
    "GLU over channels": between(lambda x, conv: functional.glu(conv(x), 1), nn.Conv2d(4, 8, 1)),
    "PReLU": between(lambda x, act: act(x), nn.PReLU(4, 0.3)),
    "identity beside it": lambda: Fn(lambda x, conv: x + conv(x), nn.Conv2d(3, 3, 3, padding=1)),
    "input used flat": lambda: Fn(
        lambda x, conv: torch.cat([x.flatten(), conv(x).flatten()]), nn.Conv2d(3, 2, 3)
    ),
    "input viewed first": lambda: Fn(
        lambda x, conv: conv(x.view(1, 3, 6, 4)).view(-1), nn.Conv2d(3, 2, 3)
    ),
}
SHAPES = {
    "two images": (NETS["residual"], (2, 3, 4, 6)),
    "two images, attention": (NETS["attention and back"], (2, 3, 4, 6)),
    "two images, excited": (NETS["squeeze and excite"], (2, 3, 4, 6)),
    "two images, flattened": (NETS["flatten"], (2, 3, 4, 6)),
    "unbatched": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(0)), (3, 4, 6)),
    "unbatched, images on both sides": (NETS["residual"], (3, 4, 6)),
    "one pixel": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.SiLU()), (1, 3, 1, 1)),
    "one column": (NETS["residual"], (1, 3, 5, 1)),
    "image from a vector": (
        lambda: Fn(lambda x, conv: conv(x.view(1, 3, 4, 6)).tanh(), nn.Conv2d(3, 2, 3)),
        (72,),
    ),
    "1-d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.SiLU(), nn.Conv1d(4, 2, 1)), (1, 3, 8)),
    "3-d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.SiLU(), nn.Flatten()), (1, 2, 3, 3, 2)),
    "1-d and 2-d": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, (4, 1)), nn.Flatten(2), nn.Conv1d(4, 3, 3), nn.Unflatten(2, (2, 2))
        ),
        SQUARE,
    ),
    "2-d and 3-d": (
        lambda: Fn(
            lambda x, a, b: b(a(x).view(1, 2, 2, 4, 6).tanh()),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv3d(2, 2, 2),
        ),
        SQUARE,
    ),
}
PROBLEMS = {name: (build, SQUARE) for name, build in NETS.items()} | SHAPES


def problem(name):
    torch.manual_seed(0)
    build, shape = PROBLEMS[name]
    return build().eval(), torch.randn(shape)


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_products_equal_the_dense_jacobian(name, dense, caplog):
    net, x = problem(name)
    J = JacobianOperator(net, x, derivatives="trace")
    caplog.clear()  # two images are told to be a batch
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        check_products(J, dense(in_double(net), x.double()))
    assert not caplog.records, "the layout was not taken"


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_batch_of_points(name, dense, caplog):
    net, x = problem(name)
    X = torch.stack([x, x.flip(-1) + 0.5, -x])
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    m, n = J.shape[1:]
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        forward, reverse = J @ torch.eye(n), J.T @ torch.eye(m)
    assert bool(caplog.records) == (name == "PReLU"), "torch has no rule for batches of that alone"
    for index, z in enumerate(X.double()):
        expected = dense(in_double(net), z)
        scale = TOLERANCE[x.dtype] * expected.abs().max()
        assert (forward[index] - expected).abs().max() <= scale
        assert (reverse[index] - expected.T).abs().max() <= scale


@pytest.mark.parametrize("name", ["residual", "flatten", "squeeze and excite", "max pool"])
def test_a_point_whose_own_channels_are_last(name, dense):
    net, x = problem(name)
    expected = dense(in_double(net), x.double())
    x = x.to(memory_format=torch.channels_last)
    check_products(JacobianOperator(net, x, derivatives="trace"), expected)


@pytest.mark.parametrize("name", ["residual", "flatten", "max pool"])
def test_a_network_whose_weights_have_channels_last(name, dense):
    net, x = problem(name)
    expected = dense(in_double(net), x.double())
    J = JacobianOperator(net.to(memory_format=torch.channels_last), x, derivatives="trace")
    check_products(J, expected)


def permutations(dtype, name="residual"):
    net, x = problem(name)
    recording = Trace(net.to(dtype), x.to(dtype)).recording
    sides = (recording.outputs[0].jvp, recording.outputs[0].vjp)
    return [sum("permute" in str(node.target) for node in side.graph.graph.nodes) for side in sides]


def test_only_what_comes_in_is_laid_out_anew():
    """Each way in is a permutation of the directions and one back, with a copy between."""
    assert permutations(torch.float32) == [2, 2]
    assert permutations(torch.float64) == [0, 0]


@pytest.mark.parametrize("name", ["1-d", "3-d"])
def test_other_convolutions_keep_their_layout(name):
    assert permutations(torch.float32, name) == [0, 0]
