"""Forward and reverse products that differ are refused by their cause, and only those."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import AdjointError, ArgumentError

WAYS = pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])


def patches(dtype=torch.float32):
    """Convolution, normalisation and tokens, as LeViT and XCiT begin."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm).to(dtype).eval()
    return lambda x: net(x).flatten(2).transpose(1, 2)


@WAYS
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
def test_tokens_of_a_normalised_convolution(derivatives, fold, batch):
    x = torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    J = JacobianOperator(patches(), x, derivatives=derivatives, fold=fold)
    m, n = J.shape
    expected = torch.func.jacfwd(patches(torch.float64))(x.double()).detach().reshape(m, n)
    for found, wanted in ((J @ torch.eye(n), expected), (J.T @ torch.eye(m), expected.T)):
        torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    values = torch.linalg.svdvals(expected)[:3]
    torch.testing.assert_close(svds(J, 3).s.double(), values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("derivatives", ["auto", "trace"])
def test_tokens_at_many_points(derivatives):
    X = torch.randn(3, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    J = JacobianOperator(patches(), X, batch_dims=1, derivatives=derivatives)
    found = J.T @ torch.eye(64)
    for at_one, x in zip(found, X, strict=True):
        expected = torch.func.jacfwd(patches())(x).detach().reshape(64, 48)
        torch.testing.assert_close(at_one, expected.T, atol=1e-5, rtol=1e-5)


@WAYS
@pytest.mark.parametrize("whole", [True, False])
def test_no_grad_is_named(derivatives, whole):
    net = nn.Linear(3, 3)

    def fn(x):
        with torch.no_grad():
            y = net(x)
        return y if whole else x + y

    with pytest.raises(AdjointError, match=r"take torch\.no_grad out of fn") as caught:
        JacobianOperator(fn, torch.ones(3), derivatives=derivatives)
    assert "\n" not in str(caught.value)


def test_autocast_is_named():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Softmax(-1))

    def fn(x):
        with torch.autocast("cpu", torch.bfloat16):
            return net(x).float()

    # Which of the two finds it first depends on how a batch of one is rounded.
    with pytest.raises(Exception, match="autocast") as caught:
        JacobianOperator(fn, torch.ones(16), derivatives="transforms")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_the_cause_is_not_named():
    def fn(x):
        x = x * x.detach().abs().max()
        if x.requires_grad:
            x.register_hook(lambda grad: 2 * grad)
        return x**2

    with pytest.raises(AdjointError, match=r"; check the backward and jvp .* hooks on gradients"):
        JacobianOperator(fn, torch.linspace(1, 2, 4), derivatives="transforms")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.01, 2.0])
def test_rounding_is_named_where_it_can_be(factor, dtype):
    """Layer normalisation of 1e6 + x, float32, has sides that differ by 4e-3."""

    def fn(x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda grad: factor * grad)
        return x**2

    with pytest.raises(AdjointError) as caught:
        JacobianOperator(fn, torch.linspace(1, 2, 4, dtype=dtype))
    named = "should this be rounding" in str(caught.value)
    assert named == (factor == 1.01 and dtype == torch.float32)


class _Multiplied(torch.autograd.Function):
    """x W' with a right jvp, and a backward that multiplies by W' in place of W, or by −W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, wrong):
        return x @ W.T

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, W, ctx.wrong = inputs
        ctx.save_for_backward(W)
        ctx.save_for_forward(W)

    @staticmethod
    def backward(ctx, grad):
        (W,) = ctx.saved_tensors
        return grad @ {"": W, "transposed": W.T, "negative": -W}[ctx.wrong], None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        (W,) = ctx.saved_tensors
        return tangent @ W.T


@pytest.mark.parametrize("n", [2, 3, 6, 40])
@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
@pytest.mark.parametrize("wrong", ["transposed", "negative"])
def test_the_transpose_in_place_of_a_square_matrix_is_seen(derivatives, wrong, n):
    W, x = torch.randn(n, n, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    W += torch.triu(W)  # not symmetric by chance
    with pytest.raises(AdjointError):
        JacobianOperator(lambda z: _Multiplied.apply(z, W, wrong), x, derivatives=derivatives)
    JacobianOperator(lambda z: _Multiplied.apply(z, W, ""), x, derivatives=derivatives)


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
@pytest.mark.parametrize("leaves_torch", [False, True])
def test_a_backward_that_cannot_be_differentiated_again_is_named(derivatives, leaves_torch):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, grad):
            with torch.no_grad():
                (x,) = ctx.saved_tensors
                found = 2 * x * grad
                return torch.from_numpy(found.numpy()) if leaves_torch else found.clone()

    with pytest.raises((AdjointError, ArgumentError), match="cannot be differentiated"):
        JacobianOperator(Square.apply, torch.ones(3), derivatives=derivatives)


class _OlderSine(torch.autograd.Function):
    """sin(x) without setup_context, so that both products are reverse passes."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x.cos()


@pytest.mark.parametrize("scale", [1e-18, 1e-24, 1e-30])
def test_a_small_derivative_by_reverse_passes_is_no_missing_one(scale):
    """The square of its values is 0 in float32."""
    W, x = torch.randn(4, 6), torch.randn(6)
    J = JacobianOperator(lambda z: scale * (W @ _OlderSine.apply(z)), x)
    truth = scale * W * x.cos()
    torch.testing.assert_close(J @ torch.eye(6), truth, rtol=1e-4, atol=0.0)
