"""Functions that cannot be recorded are differentiated by transforms, or refused."""

import contextlib
import copy
import logging

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError, TraceError


def branch(x):
    return x**2 if x.sum() > 0 else 3 * x


def into_buffer(x):
    out = torch.zeros(4, dtype=x.dtype)
    out[:2] = x[:2] * x[2:]
    return out


def strided(x):
    return x.as_strided((2,), (2,)) ** 2


UNRECORDABLE = {"branch": branch, "write into a buffer": into_buffer, "as_strided": strided}


@pytest.mark.parametrize("name", UNRECORDABLE)
@pytest.mark.parametrize("sign", [1, -1])
def test_auto_falls_back_with_a_line_in_the_log(name, sign, dense, caplog):
    fn = UNRECORDABLE[name]
    x = sign * torch.tensor([0.5, 1.0, 2.0, -1.0], dtype=torch.float64)
    expected = dense(fn, x)
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = JacobianOperator(fn, x)
    found = J @ torch.eye(4, dtype=x.dtype)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=x.dtype), expected.T)
    (record,) = caplog.records
    assert "cannot record the function" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("name", UNRECORDABLE)
def test_trace_alone_refuses(name):
    with pytest.raises(TraceError, match="cannot record the function"):
        JacobianOperator(UNRECORDABLE[name], torch.ones(4), derivatives="trace")


def test_what_can_be_recorded_leaves_no_line_in_the_log(caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        JacobianOperator(torch.sin, torch.ones(3)) @ torch.ones(3)
    assert not caplog.records


def test_an_unknown_way_of_differentiating_is_refused():
    with pytest.raises(ArgumentError, match="derivatives='jvp' is unknown"):
        JacobianOperator(torch.sin, torch.ones(2), derivatives="jvp")


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_a_random_function_has_no_jacobian(derivatives):
    with pytest.raises(ArgumentError, match="two different values at the same point"):
        JacobianOperator(
            lambda x: nn.functional.dropout(x, 0.5), torch.ones(64), derivatives=derivatives
        )


@pytest.mark.parametrize("fn", [lambda x: x * torch.rand(()), branch])
def test_what_is_used_instead_is_not_advised_as_well(caplog, fn):
    x = torch.linspace(0.5, 1.0, 300)
    with contextlib.suppress(ArgumentError):
        JacobianOperator(fn, x)
    assert "use derivatives=" not in caplog.text
    with pytest.raises((TraceError, ArgumentError)):
        JacobianOperator(fn, x, derivatives="trace")


def test_without_another_way_it_is_advised():
    with pytest.raises(TraceError, match=r'; use derivatives="transforms"$'):
        JacobianOperator(branch, torch.linspace(0.5, 1.0, 300), derivatives="trace")


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_weights_changed_before_the_first_product_are_noticed(derivatives):
    layer = nn.Linear(2, 2)
    J = JacobianOperator(layer, torch.ones(2), derivatives=derivatives)
    with torch.no_grad():
        layer.weight.add_(1.0)
    with pytest.raises(ArgumentError, match="the weights have changed"):
        J @ torch.ones(2)


def test_weights_changed_between_products_are_noticed():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    J = JacobianOperator(net, torch.ones(2))
    J @ torch.ones(2)
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    for product in (J.matvec, J.rmatvec):
        with pytest.raises(ArgumentError, match="weights have changed"):
            product(torch.ones(2))


def test_the_function_is_recorded_once_and_never_called_again():
    calls = []

    def fn(x):
        calls.append(1)
        return x**2

    J = JacobianOperator(fn, torch.ones(3))
    J @ torch.ones(3)
    after_first = len(calls)
    for _ in range(3):
        J @ torch.ones(3, 5)
        J.T @ torch.ones(3, 5)
    assert len(calls) == after_first


def test_operation_without_forward_mode_takes_two_reverse_passes(dense):
    torch.manual_seed(0)
    x, grid = torch.randn(1, 2, 3, 3), torch.rand(1, 2, 2, 2)
    sample = lambda z: nn.functional.grid_sample(z.sin(), grid, align_corners=False)  # noqa: E731
    J = JacobianOperator(sample, x, derivatives="transforms")
    torch.testing.assert_close(J @ torch.eye(18), dense(sample, x))


@pytest.mark.parametrize("gradients", [True, False], ids=["gradients", "no gradients"])
@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_lstm_in_float32_is_solved(derivatives, gradients):
    """Under torch.no_grad, as in a solve, oneDNN's LSTM drops what its derivative needs."""
    torch.manual_seed(0)
    layer = nn.LSTM(4, 3, batch_first=True).eval()
    X = torch.randn(2, 5, 4)
    with torch.set_grad_enabled(gradients):
        J = JacobianOperator(lambda z: layer(z)[0], X[:1], derivatives=derivatives)
        found = [svds(J, 4).s, svds(J.at(X[1:]), 4).s]
    exact = copy.deepcopy(layer).double()
    for s, x in zip(found, X.double(), strict=True):
        rows = torch.autograd.functional.jacobian(lambda z: exact(z)[0], x[None])
        truth = torch.linalg.svdvals(rows.reshape(15, 20))[:4]
        torch.testing.assert_close(s.double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.on_demand
def test_a_tensor_that_a_transform_left_in_a_module_is_no_obstacle():
    layer = nn.LSTM(4, 3).eval()  # keeps the weights of its last call
    weights = {name: weight.detach() for name, weight in layer.named_parameters()}
    x = torch.randn(5, 1, 4)
    total = lambda w: torch.func.functional_call(layer, w, (x,))[0].sum()  # noqa: E731
    torch.func.grad(total)(weights)
    J = JacobianOperator(lambda z: layer(z)[0], x)
    assert J.shape == J.at(x + 1).shape == (15, 20)


def test_a_backward_that_cannot_be_differentiated_is_refused_not_taken_for_zero():
    class Square(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, cotangent):
            return 2 * ctx.saved_tensors[0] * cotangent

    with pytest.raises(
        ArgumentError,
        match=r"neither forward mode .* nor a second reverse .*cannot be differentiated",
    ):
        JacobianOperator(Square.apply, torch.ones(3), derivatives="transforms")
