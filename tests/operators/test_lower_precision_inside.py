"""Networks in float64 that compute in a lower precision inside, as Llama's and T5's norms do."""

import copy
import logging
import re
import warnings

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, load, ntk, svds
from jvpsvd.errors import (
    AdjointError,
    ArgumentError,
    ConvergenceWarning,
    DerivativeError,
    PrecisionWarning,
)
from jvpsvd.networks import Derivatives
from jvpsvd.operators import Trace, restrict

DERIVATIVES = ["auto", "trace", "transforms"]
EVERY = pytest.mark.parametrize("derivatives", DERIVATIVES)
SINGLE = torch.finfo(torch.float32).eps


class Norm(nn.Module):
    """Root mean square normalisation."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class SingleNorm(Norm):
    def forward(self, x):
        return super().forward(x.float()).to(x.dtype)


class SinglyMultiplied(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x.float(), self.weight.float()).to(x.dtype)


def network(width, norm, depth=1):
    torch.manual_seed(0)
    parts = [(norm(), nn.Linear(width, width), nn.SiLU()) for _ in range(depth)]
    return nn.Sequential(*(part for each in parts for part in each)).eval()


@EVERY
@pytest.mark.parametrize("depth", [1, 4])
def test_it_is_differentiated_to_the_digits_that_it_has(derivatives, depth):
    net, exact = network(8, SingleNorm, depth), network(8, Norm, depth).double()
    x = torch.randn(1, 8)
    J = JacobianOperator(net, x, dtype=torch.float64, derivatives=derivatives)
    expected = torch.linalg.svdvals(torch.func.jacrev(exact)(x.double()).detach().reshape(8, 8))
    result = svds(J, "all")
    assert result.converged.all()
    assert (result.s - expected).abs().max() < 1e-6 * expected[0]
    assert SINGLE <= result.certificate.defined_to < 1e-5


@pytest.mark.parametrize("derivatives", ["auto", "trace"])
def test_many_points_are_multiplied_together(derivatives, caplog):
    net = nn.Sequential(nn.Linear(64, 64), SinglyMultiplied(64, 64, bias=False), nn.Softmax(-1))
    X = torch.randn(64, 64)
    with caplog.at_level(logging.WARNING):
        J = JacobianOperator(
            net.eval(), X, batch_dims=1, dtype=torch.float64, derivatives=derivatives
        )
        J = J.at(X.double().flip(0))
        exact = nn.Sequential(net[0], nn.Linear(64, 64, bias=False), net[2])
        exact[1].weight = net[1].weight
        expected = JacobianOperator(exact, X.flip(0), batch_dims=1, dtype=torch.float64)
        assert (J.to_dense() - expected.to_dense()).abs().max() < 1e-6
    assert J.precision == torch.float32
    assert "slower" not in caplog.text
    assert "one by one" not in caplog.text


def test_the_log_names_the_place_once(caplog):
    def fn(x):
        return x.sin() + x.float().cos().double()

    with caplog.at_level(logging.WARNING):
        J = JacobianOperator(fn, torch.ones(3, dtype=torch.float64))
        JacobianOperator(fn, torch.zeros(3, dtype=torch.float64), derivatives="trace")
    (line,) = caplog.messages
    number = fn.__code__.co_firstlineno + 1
    assert "fn computes in float32 on the path from a float64 point (" in line
    assert f"test_lower_precision_inside.py, line {number}, in fn)" in line
    assert J.precision == J.T.precision == torch.float32


def test_a_linear_map_is_defined_to_the_lower_precision_too():
    weight = torch.randn(6, 6)
    J = JacobianOperator(lambda x: (weight @ x.float()).double(), torch.ones(6).double())
    plain = JacobianOperator(torch.sin, torch.ones(6).double())
    for A in (J, J.T, 2 * J, plain @ J, restrict(J, rows=[0, 2]), J + plain):
        assert A.precision == torch.float32
        assert svds(A, 1).certificate.defined_to >= SINGLE
    assert plain.precision == torch.float64
    assert svds(plain, 1).certificate.defined_to < 1e-14


def test_what_is_written_into_a_part_counts():
    def fn(x):
        out = torch.zeros_like(x)
        out[:2] = x[:2].float().sin().double()
        out[2:].copy_(x[2:])
        return out

    assert JacobianOperator(fn, torch.ones(4).double()).precision == torch.float32


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * torch.linspace(0, 1, 4).sin().double(),  # a table of constants
        lambda x: torch.where(x.float() > 0.5, x.sin(), x),  # a choice
        lambda x: x.sin() + 0 * len(x.float()),  # a cast that goes nowhere
    ],
)
def test_what_is_not_on_the_path_does_not_count(fn, caplog):
    with caplog.at_level(logging.WARNING):
        J = JacobianOperator(fn, torch.linspace(0, 1, 4).double())
    assert J.precision == torch.float64
    assert not caplog.messages


def test_each_depth_of_a_network_has_its_own():
    net = nn.Sequential(nn.Linear(8, 8), SingleNorm(), nn.Linear(8, 8)).eval()
    X = torch.randn(2, 8)
    derivatives = Derivatives(net, X[:1], ["0", "1", "output"], dtype=torch.float64)
    maps = derivatives.at(X[:1], "first")
    found = [JacobianOperator.from_linear_map(J).precision for J in maps]
    assert found == [torch.float64, torch.float32, torch.float32]


def test_a_stream_knows_it():
    stream = StreamedStack.over(
        copy.deepcopy(network(8, SingleNorm)).double(), torch.randn(3, 8).double()
    )
    assert stream.precision == stream.mean_gram().precision == torch.float32
    assert svds(stream, 2).certificate.defined_to >= SINGLE


def test_a_precision_too_low_for_the_test_is_named():
    weight = torch.randn(6, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    with pytest.raises(AdjointError, match=r"not in torch\.bfloat16 \(.*line \d+, in <lambda>\)"):
        JacobianOperator(lambda x: (weight @ x.bfloat16()).double(), torch.ones(6).double())


def test_products_that_differ_look_different():
    def fn(x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda grad: (1 + 1e-7) * grad)
        return x**2

    with pytest.raises(AdjointError) as caught:
        JacobianOperator(fn, torch.linspace(1, 2, 4, dtype=torch.float64))
    products = re.search(r"<J v, u> = (\S+), <v, J' u> = (\S+);", str(caught.value)).groups()
    assert products[0] != products[1]


class SinglySoft(nn.Module):
    """Softmax as T5 and Llama compute it."""

    def forward(self, x):
        return nn.functional.softmax(x.float(), dim=-1).type_as(x)


def multiplied(width, last):
    """A network that multiplies in float32, and the same in float64."""
    torch.manual_seed(0)
    inner = SinglyMultiplied(width, width, bias=False)
    net = nn.Sequential(nn.Linear(width, width), inner, last).eval()
    exact = nn.Sequential(net[0], nn.Linear(width, width, bias=False), last)
    exact[1].weight = inner.weight
    return net, copy.deepcopy(exact).double().eval()


@EVERY
@pytest.mark.parametrize("width", [4, 16, 64])
def test_batches_have_the_digits_of_the_lower_precision(derivatives, width):
    net, exact = multiplied(width, nn.Tanh())
    X = torch.randn(12, width, dtype=torch.float64)
    expected = torch.stack([torch.func.jacrev(exact)(x) for x in X])
    J = JacobianOperator(net, X.float(), batch_dims=1, dtype=torch.float64, derivatives=derivatives)
    J = J.at(X)
    for _ in range(40):  # until small networks are recorded
        J.matmat(torch.ones(12, width, 2, dtype=torch.float64))
    assert J.precision == J.at(X.flip(0)).precision == torch.float32
    assert (J.to_dense() - expected).abs().max() < 1e-6
    assert (J.at(X.flip(0)).to_dense() - expected.flip(0)).abs().max() < 1e-6
    assert svds(J, 2).converged.all()


@EVERY
def test_a_point_replayed_elsewhere_is_compared_by_the_lower_precision(derivatives):
    net, exact = multiplied(16, nn.Tanh())
    X = torch.randn(3, 16, dtype=torch.float64)
    J = JacobianOperator(net, X[0].float(), dtype=torch.float64, derivatives=derivatives)
    for x in X:
        J = J.at(x)
        for _ in range(40):
            J.matmat(torch.ones(16, 2, dtype=torch.float64))
        assert (J.to_dense() - torch.func.jacrev(exact)(x)).abs().max() < 1e-6
    assert J.precision == torch.float32


@EVERY
def test_attention_with_a_softmax_in_float32(derivatives):
    torch.manual_seed(0)
    query, key = nn.Linear(6, 6).double(), nn.Linear(6, 6).double()
    soft = SinglySoft()

    def attend(x, softmax=soft):
        scores = query(x) @ key(x).mT
        mask = torch.ones(5, 5).triu(1).bool()
        return softmax(scores.masked_fill(mask, -1e9)) @ x

    x = torch.randn(5, 6, dtype=torch.float64)
    J = JacobianOperator(attend, x, derivatives=derivatives)
    expected = torch.func.jacrev(lambda z: attend(z, nn.Softmax(-1)))(x).reshape(30, 30)
    assert J.precision == torch.float32
    assert (J.to_dense() - expected).abs().max() < 1e-6


@pytest.mark.parametrize("width", [4, 64])
def test_streams_and_tangent_kernels(width):
    net, exact = multiplied(width, nn.Tanh())
    X = torch.randn(4, width, dtype=torch.float64)
    expected = torch.cat([torch.func.jacrev(exact)(x) for x in X])
    stream = StreamedStack.over(copy.deepcopy(net).double(), X)
    assert (stream.to_dense() - expected).abs().max() < 1e-6
    kernel = ntk(copy.deepcopy(net).double(), X, k=2).values
    assert torch.allclose(kernel, ntk(exact, X, k=2).values, rtol=1e-6)


@EVERY
@pytest.mark.parametrize("scale", [1 + 1e-3, 0.5, 0.0])
def test_a_wrong_backward_is_refused_beside_a_cast_too(derivatives, scale):
    def fn(x):
        x = x * 1
        if x.requires_grad:
            x.register_hook(lambda grad: scale * grad)
        return x.float().sin().double() + x**2

    with pytest.raises(AdjointError):
        JacobianOperator(fn, torch.linspace(1, 2, 4, dtype=torch.float64), derivatives=derivatives)


def test_weights_that_change_are_refused_beside_a_cast_too():
    net, _ = multiplied(4, nn.Tanh())
    net = net.double()
    J = JacobianOperator(net, torch.ones(4, dtype=torch.float64), derivatives="transforms")
    with torch.no_grad():
        net[0].weight.mul_(1.01)
    with pytest.raises(ArgumentError, match="weights have changed"):
        J @ torch.ones(4, dtype=torch.float64)


@pytest.mark.parametrize(
    "hidden",
    [
        torch.inference_mode()(lambda x: x.float().sin().double()),
        lambda x: torch.from_numpy(x.detach().float().numpy() ** 2).double() + 0 * x,
    ],
    ids=["inference mode", "NumPy"],
)
def test_a_derivative_that_is_hidden_where_float32_is_used_is_refused(hidden):
    with pytest.raises(DerivativeError, match="hidden by"):
        JacobianOperator(hidden, torch.linspace(0.1, 1, 20, dtype=torch.float64))


def test_a_step_function_of_a_cast_has_no_derivative():
    x = torch.linspace(0.1, 1, 20, dtype=torch.float64)
    J = JacobianOperator(lambda x: (3 * x.float()).round().double(), x)
    assert not J.to_dense().any()


def test_products_that_explain_a_cast_are_not_called_incomplete(caplog):
    """Steps of 1e-7 are lost in float32 beside 40, so that the product seems to be too large."""

    def fn(x):
        return torch.cat([x[:15], x[15:] + 3 * x[15:].float().double()])

    x = torch.cat([torch.full((15,), 1.0), torch.full((14,), 40.0)]).double()
    with caplog.at_level(logging.WARNING):
        JacobianOperator(fn, x)
    assert "explain" not in caplog.text


def test_a_part_that_products_lack_is_told_beside_a_cast(caplog):
    x = torch.linspace(0.1, 1, 20, dtype=torch.float64)
    with caplog.at_level(logging.WARNING):
        JacobianOperator(lambda x: (x.float().sin() + x.detach().float().cos()).double(), x)
    assert "products do not explain how fn moves" in caplog.text


@pytest.mark.parametrize("values", [torch.ones(3, dtype=torch.int64), torch.ones(3).bool()])
def test_a_recording_needs_a_floating_point(values):
    with pytest.raises(ArgumentError, match="Jacobian needs a non-empty real floating output"):
        Trace(lambda x: x | x, values)


def test_a_tolerance_below_it_is_told_with_what_to_do():
    net, _ = multiplied(8, nn.Tanh())
    J = JacobianOperator(net, torch.ones(8), dtype=torch.float64)
    told = "below the rounding of float32 that fn casts to.*; ask for 1e-06 or let fn compute in"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.warns(PrecisionWarning, match=told):
            svds(J, 3, tol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = svds(J, 3, tol=0)
    assert result.converged.all()
    assert SINGLE < result.tol < 1e-5


def test_a_result_says_it_and_bounds_by_it(tmp_path):
    net, exact = multiplied(8, nn.Tanh())
    J = JacobianOperator(net, torch.ones(8), dtype=torch.float64)
    result = svds(J, "all")
    assert result.precision == "float32"
    assert "float64 on cpu, products in float32" in str(result)
    result.save(tmp_path / "result.safetensors")
    assert load(tmp_path / "result.safetensors").precision == "float32"
    plain = svds(JacobianOperator(exact, torch.ones(8).double()), "all")
    assert plain.precision is None
    assert "products in float" not in str(plain)


def test_rank_and_spectrum_do_not_count_its_rounding():
    torch.manual_seed(0)
    net = nn.Sequential(SinglyMultiplied(8, 2, bias=False), SinglyMultiplied(2, 8, bias=False))
    J = JacobianOperator(net.eval(), torch.ones(8), dtype=torch.float64)
    result = svds(J, "all")
    assert result.rank().value == 2
    partly = svds(J, 1).spectrum.count(1e-9 * float(result.s[0]))
    assert partly.low <= 2 <= partly.high


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (lambda x: x + torch.linspace(0, 1, 4), None),  # a float32 constant
        (lambda x: x.sin() * (x.float() > 0), None),  # a comparison
        (lambda x: x[x.float().argsort()], None),  # an index
        (lambda x: x * x.half().double(), torch.float16),
        (lambda x: x.bfloat16().float().sin().double(), torch.bfloat16),
        (lambda x: torch.softmax(x, 0, dtype=torch.float32).double(), torch.float32),
    ],
    ids=["constant", "comparison", "index", "half", "bfloat16", "argument"],
)
def test_which_casts_count(fn, expected):
    x = torch.linspace(0.1, 1, 4, dtype=torch.float64)
    J = JacobianOperator(fn, x, check=False)
    assert J.precision == (expected or torch.float64)


def test_float32_to_float32_is_no_cast():
    J = JacobianOperator(lambda x: x.float().sin().to(x.dtype), torch.ones(4))
    assert J.precision == J.dtype == torch.float32


def test_half_inside_float32_is_told(caplog):
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False).bfloat16().eval()
    with caplog.at_level(logging.WARNING):
        J = JacobianOperator(lambda x: layer(x.bfloat16()).float(), torch.randn(64), check=False)
    assert J.precision == torch.bfloat16
    assert "fn computes in bfloat16 on the path from a float32 point" in caplog.text
    below = "below the rounding of bfloat16 that fn casts to"
    missed = "let fn compute in torch.float32, not in bfloat16"
    with (
        pytest.warns(PrecisionWarning, match=below),
        pytest.warns(ConvergenceWarning, match=missed),
    ):
        result = svds(J, 3)
    assert not result.converged.any()
    assert result.certificate.defined_to >= torch.finfo(torch.bfloat16).eps


def _mask_like(x):
    b = torch.empty_like(x, dtype=torch.float32)
    return x * b.fill_(2.0)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.sin() + torch.zeros_like(x, dtype=torch.float32),
        lambda x: x.sin() * x.new_ones(6, dtype=torch.float32),
        lambda x: x * torch.ones_like(x, dtype=torch.float16),
        lambda x: torch.zeros_like(x, dtype=torch.float32).scatter_(0, x.topk(2).indices, 1.0) * x,
        lambda x: x.sin() * x.sign().float(),
        lambda x: x * x.sin().round().to(torch.bfloat16),
        lambda x: x + (x.to(torch.bfloat16).to(x.dtype) - x).detach(),
        _mask_like,
    ],
)
@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_what_takes_a_shape_is_flat_or_detached_is_no_cast(fn, derivatives):
    x = torch.randn(6, dtype=torch.float64)
    J = JacobianOperator(fn, x, derivatives=derivatives)
    assert J.precision == torch.float64
    torch.testing.assert_close(J @ torch.eye(6).double(), torch.func.jacrev(fn)(x))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: torch.round(x, decimals=6),
        lambda x: (x * 2**23).round().div(2**23),
        lambda x: (x * 2**30).to(torch.int32).double() / 2**30,
        lambda x: torch.bucketize(x, torch.linspace(0, 1, 100_000).double()).double(),
    ],
)
def test_fine_steps_in_float64_hide_nothing(fn):
    x = torch.rand(50, dtype=torch.float64)
    assert not (JacobianOperator(fn, x) @ torch.eye(50).double()).any()


def test_the_lines_of_a_caller_are_no_place_of_a_cast(caplog):
    class Low(nn.Module):
        def forward(self, x):
            return x.float().sin().double()

    low = torch.jit.trace(Low(), torch.ones(3).double())
    JacobianOperator(lambda x: low(x), torch.ones(3).double())
    assert "computes in float32 on the path" in caplog.text
    assert "in test_the_lines" not in caplog.text
