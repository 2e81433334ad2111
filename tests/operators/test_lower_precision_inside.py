"""Networks in float64 that compute in a lower precision inside, as Llama's and T5's norms do."""

import copy
import logging
import re

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, svds
from jvpsvd.errors import AdjointError
from jvpsvd.networks import Derivatives
from jvpsvd.operators import restrict

WAYS = pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
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


@WAYS
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
def test_what_is_not_on_the_way_does_not_count(fn, caplog):
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
