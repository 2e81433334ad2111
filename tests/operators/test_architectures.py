"""Networks of every make, and functions whose Jacobian is known without differentiation."""

import logging
import math

import pytest
import torch
from support.agreement import Fn, check_products
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from jvpsvd import JacobianOperator, svds

WAYS = ["trace", "transforms"]
IMAGE = (1, 2, 6, 6)


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, and torch's encoder as it comes."""

    def __init__(self, **options):
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 3, stride=3)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.positions = nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, **options)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.positions
        return self.head(self.norm(self.encoder(tokens))[:, 0])


class Mixer(nn.Module):
    def __init__(self, patches, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(channels), nn.LayerNorm(channels)])
        self.tokens = nn.Sequential(nn.Linear(patches, 6), nn.GELU(), nn.Linear(6, patches))
        self.channels = nn.Sequential(nn.Linear(channels, 7), nn.GELU(), nn.Linear(7, channels))

    def forward(self, x):
        x = x + self.tokens(self.norms[0](x).mT).mT
        return x + self.channels(self.norms[1](x))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.layers = kind(3, 4, batch_first=True, **options)

    def forward(self, x):
        return self.layers(x)[0]


class Squares(torch.autograd.Function):
    """x², with a backward pass and without forward mode."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return 2 * x * cotangent


class SquaresInTwoParts(Squares):
    """The same, in the form that the transforms of torch.func ask for."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)


class SquaresWithVmap(SquaresInTwoParts):
    generate_vmap_rule = True


def with_statistics(norm):
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


def encoder(**options):
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 8, batch_first=True, **options),
        2,
        enable_nested_tensor=False,
    )


def resampled(**options):
    return lambda: Fn(lambda x: functional.interpolate(x, **options) ** 2)


NETS = {
    "ViT": (VisionTransformer, IMAGE),
    "ViT, norm first, GELU": (
        lambda: VisionTransformer(norm_first=True, activation="gelu"),
        IMAGE,
    ),
    "encoder": (encoder, (1, 4, 6)),
    "encoder, two sequences": (encoder, (2, 3, 6)),
    "mixer": (lambda: nn.Sequential(Mixer(4, 5), Mixer(4, 5)), (1, 4, 5)),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "LayerNorm, no affine": (lambda: nn.LayerNorm(5, elementwise_affine=False), (3, 5)),
    "GELU": (lambda: nn.GELU(), (3, 4)),
    "GELU, tanh": (lambda: nn.GELU("tanh"), (3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3, 3)),
    "GroupNorm of vectors": (lambda: nn.GroupNorm(2, 6), (2, 6)),
    "InstanceNorm": (lambda: nn.InstanceNorm2d(2, affine=True), IMAGE),
    "InstanceNorm, statistics": (
        lambda: with_statistics(nn.InstanceNorm1d(3, affine=True, track_running_stats=True)),
        (2, 3, 4),
    ),
    "BatchNorm1d": (lambda: with_statistics(nn.BatchNorm1d(4)), (3, 4)),
    "BatchNorm3d": (lambda: with_statistics(nn.BatchNorm3d(2)), (1, 2, 2, 2, 2)),
    "RMSNorm": (lambda: nn.RMSNorm(5), (3, 5)),
    "local response": (lambda: nn.LocalResponseNorm(3), (1, 4, 2, 2)),
    "LSTM": (lambda: Recurrent(nn.LSTM), (1, 4, 3)),
    "LSTM, two layers both ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        (2, 3, 3),
    ),
    "LSTM with projections": (lambda: Recurrent(nn.LSTM, proj_size=2), (1, 3, 3)),
    "GRU": (lambda: Recurrent(nn.GRU), (1, 4, 3)),
    "GRU, two layers both ways": (
        lambda: Recurrent(nn.GRU, num_layers=2, bidirectional=True),
        (2, 3, 3),
    ),
    "RNN": (lambda: Recurrent(nn.RNN), (1, 4, 3)),
    "max pool 1-d": (lambda: nn.MaxPool1d(2), (1, 3, 6)),
    "max pool 1-d, overlapping": (lambda: nn.MaxPool1d(3, 2, padding=1), (1, 3, 7)),
    "max pool 2-d": (lambda: nn.MaxPool2d(2), IMAGE),
    "max pool 2-d, overlapping": (lambda: nn.MaxPool2d(3, 2, padding=1), IMAGE),
    "max pool 2-d, dilated": (lambda: nn.MaxPool2d(2, 1, dilation=2, ceil_mode=True), IMAGE),
    "Lp pool": (lambda: nn.LPPool2d(2, 2), IMAGE),
    "nearest": (resampled(scale_factor=2), IMAGE),
    "nearest, down": (resampled(size=(4, 5)), IMAGE),
    "linear": (resampled(size=7, mode="linear"), (1, 2, 5)),
    "bilinear": (resampled(scale_factor=1.5, mode="bilinear"), IMAGE),
    "bilinear, corners": (resampled(size=4, mode="bilinear", align_corners=True), IMAGE),
    "bicubic": (resampled(size=(4, 9), mode="bicubic"), IMAGE),
    "area": (resampled(size=3, mode="area"), IMAGE),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Tanh()), IMAGE),
    "separable": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(4, 3, 1), nn.SiLU()),
        IMAGE,
    ),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 3, 2, 1, 1), nn.Softplus()),
        (1, 2, 3, 3),
    ),
    "in-place ReLU": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.ELU(inplace=True)
        ),
        IMAGE,
    ),
    "weight norm": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 5)),
            nn.Tanh(),
            parametrizations.weight_norm(nn.Linear(5, 3)),
        ),
        (2, 4),
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Conv2d(2, 3, 3)), nn.LeakyReLU(), nn.Flatten()
        ),
        IMAGE,
    ),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), (2, 4)),
    "cosine similarity": (
        lambda: Fn(lambda x: functional.cosine_similarity(x[:1], x[1:], -1)),
        (3, 4),
    ),
    "normalized": (lambda: Fn(lambda x: functional.normalize(x, dim=-1)), (3, 4)),
    "smooth convnet": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Conv2d(3, 2, 3), nn.Tanh()),
        IMAGE,
    ),
    "log softmax": (lambda: nn.LogSoftmax(-1), (2, 4)),
    "pixel shuffle": (lambda: nn.Sequential(nn.Conv2d(2, 4, 1), nn.PixelShuffle(2)), IMAGE),
}


def problem(name):
    torch.manual_seed(0)
    build, shape = NETS[name]
    return build().double().eval().requires_grad_(False), torch.randn(shape, dtype=torch.float64)


@pytest.fixture
def truth(dense):
    """The dense Jacobian; attention by plain operations, which have every derivative."""

    def jacobian(net, x):
        with sdpa_kernel(SDPBackend.MATH):
            return dense(net.requires_grad_(True), x)

    return jacobian


@pytest.mark.parametrize("derivatives", WAYS)
@pytest.mark.parametrize("name", NETS)
def test_both_products_equal_the_dense_jacobian(name, derivatives, truth):
    net, x = problem(name)
    J = JacobianOperator(net, x, derivatives=derivatives)
    check_products(J, truth(net, x))


# Rounding is that of their operations, which shallower ones have as well.
DEEPER = {
    "LSTM, two layers both ways", "GRU, two layers both ways", "encoder, two sequences",
    "ViT, norm first, GELU",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported:UserWarning")
@pytest.mark.parametrize("name", sorted(NETS.keys() - DEEPER))
def test_single_precision(name, truth):
    net, x = problem(name)
    expected = truth(net, x)
    check_products(JacobianOperator(net.float(), x.float()), expected)


@pytest.mark.parametrize("name", ["ViT", "mixer", "max pool 2-d, overlapping", "separable"])
def test_a_batch_of_points(name, truth):
    net, x = problem(name)
    X = torch.stack([x, 2 * x, x.flip(-1)])
    J = JacobianOperator(net, X, batch_dims=1)
    m, n = J.shape[1:]
    expected = torch.stack([truth(net, z) for z in X])
    torch.testing.assert_close(J @ torch.eye(n, dtype=x.dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(m, dtype=x.dtype), expected.mT)


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
@pytest.mark.parametrize("squares", [SquaresInTwoParts, SquaresWithVmap, Squares])
def test_a_function_with_a_backward_pass_only(squares, derivatives, dense, caplog):
    x = torch.randn(2, 3, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = JacobianOperator(lambda z: squares.apply(z).cumsum(0), x, derivatives=derivatives)
    check_products(J, dense(lambda z: (z**2).cumsum(0), x))
    said = " ".join(record.getMessage() for record in caplog.records)
    assert ("cannot record the function" in said) == (derivatives == "auto")
    assert ("slow reverse passes" in said) == (squares is Squares)


@pytest.mark.parametrize(
    "body",
    [
        lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1)),
    ],
    ids=["linear", "convolutions"],
)
@pytest.mark.parametrize("trained", [True, False])
def test_activations_that_are_computed_again(trained, body, dense):
    torch.manual_seed(0)
    body = body().double().requires_grad_(trained)
    x = torch.randn(IMAGE, dtype=torch.float64)
    J = JacobianOperator(lambda z: checkpoint(body, z, use_reentrant=False), x)
    check_products(J, dense(body, x))


def bias_free(pool):
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, bias=False),
        nn.ReLU(),
        pool,
        nn.Conv2d(5, 4, 3, padding=1, groups=1, bias=False),
        nn.LeakyReLU(0.1),
        nn.ConvTranspose2d(4, 3, 2, stride=2, bias=False),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(108, 7, bias=False),
    ).double()


@pytest.mark.parametrize("derivatives", WAYS)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1), nn.AvgPool2d(2)])
@pytest.mark.parametrize("seed", range(3))
def test_networks_without_bias_are_their_own_derivative(seed, pool, derivatives):
    """f(c x) = c f(x) for c > 0, so that f(x) = J(x) x (Euler)."""
    torch.manual_seed(seed)
    net, x = bias_free(pool), torch.randn(1, 2, 6, 6, dtype=torch.float64)
    J = JacobianOperator(net, x, derivatives=derivatives)
    torch.testing.assert_close(J @ x.flatten(), net(x).detach().flatten())


@pytest.mark.parametrize("channels", [(2, 3), (3, 2), (2, 2), (1, 4)])
@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circular_convolution_has_the_singular_values_of_its_symbol(dtype, size, channels):
    torch.manual_seed(0)
    c_in, c_out = channels
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="circular", dtype=dtype)
    kernel = torch.zeros(c_out, c_in, size, size, dtype=torch.float64)
    kernel[..., :3, :3] = conv.weight.detach()
    symbol = torch.fft.fft2(kernel).permute(2, 3, 0, 1)
    expected = torch.linalg.svdvals(symbol).flatten().sort(descending=True).values
    J = JacobianOperator(conv, torch.randn(1, c_in, size, size, dtype=dtype))
    found = svds(J, k=min(J.shape), method="exact").s
    error = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype] * expected[0]
    assert (found.double() - expected).abs().max() < error


@pytest.mark.parametrize("derivatives", WAYS)
def test_layer_norm_ignores_shifts_and_scales(derivatives):
    x = torch.randn(1, 7, dtype=torch.float64)
    norm = nn.LayerNorm(7, eps=0).double()
    nn.init.normal_(norm.weight)
    J = JacobianOperator(norm, x, derivatives=derivatives)
    null = torch.stack([torch.ones_like(x), x - x.mean(), x]).reshape(3, 7).T
    assert (J @ null).abs().max() < 1e-13
    assert torch.linalg.matrix_rank(J @ torch.eye(7, dtype=x.dtype), rtol=1e-10) == 5


@pytest.mark.parametrize("derivatives", WAYS)
def test_group_norm_ignores_shifts_of_a_group(derivatives):
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64)
    J = JacobianOperator(nn.GroupNorm(2, 4, eps=1e-3).double(), x, derivatives=derivatives)
    shift = torch.zeros_like(x)
    shift[:, :2] = 1
    assert (J @ shift.flatten()).abs().max() < 1e-13


@pytest.mark.parametrize("derivatives", WAYS)
def test_softmax_ignores_shifts_and_keeps_its_sum(derivatives):
    x = torch.randn(5, dtype=torch.float64)
    J = JacobianOperator(nn.Softmax(0), x, derivatives=derivatives)
    ones = torch.ones(5, dtype=torch.float64)
    assert (J @ ones).abs().max() < 1e-15
    assert (J.T @ ones).abs().max() < 1e-15
    p = x.softmax(0)
    torch.testing.assert_close(J @ torch.eye(5, dtype=x.dtype), p.diag() - p.outer(p))


@pytest.mark.parametrize("derivatives", WAYS)
def test_rotations_have_singular_values_one(derivatives):
    torch.manual_seed(0)
    Q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    x = torch.randn(6, dtype=torch.float64)
    J = JacobianOperator(lambda z: Q @ z.flip(0), x, derivatives=derivatives)
    torch.testing.assert_close(svds(J, k=6).s, torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize("derivatives", WAYS)
@pytest.mark.parametrize("name", ["ViT, norm first, GELU", "mixer", "LSTM", "smooth convnet"])
def test_finite_differences_of_smooth_networks(name, derivatives):
    net, x = problem(name)
    J = JacobianOperator(net, x, derivatives=derivatives)
    h = math.sqrt(math.sqrt(torch.finfo(x.dtype).eps)) / 4
    for v in torch.randn(4, *x.shape, dtype=x.dtype):
        with torch.no_grad():
            central = (net(x + h * v) - net(x - h * v)).flatten() / (2 * h)
        found = J @ v.flatten()
        assert (found - central).abs().max() < 1e-6 * found.abs().max()
