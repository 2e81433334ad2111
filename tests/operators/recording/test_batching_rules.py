"""A product of many vectors is one call of each operation: none is done vector by vector."""

import copy

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace, transformed


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.inner = kind(5, 4, batch_first=True, **options)

    def forward(self, x):
        return self.inner(x)[0]


def filled(x):
    """Copies one row to all rows of another tensor."""
    out = torch.zeros(3, x.shape[1], dtype=x.dtype)
    return out.copy_(x.sin()[:1]) * x


RECURRENT = {
    "RNN": lambda: Recurrent(nn.RNN),
    "GRU": lambda: Recurrent(nn.GRU),
    "LSTM": lambda: Recurrent(nn.LSTM),
    "LSTM, both ways": lambda: Recurrent(nn.LSTM, bidirectional=True, num_layers=2),
    "a copy of a row": lambda: filled,
}


def operations(product, block):
    """How many operations are carried out on one thread for a product."""
    product(block)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        product(block)
    return sum(event.count for event in profiled.key_averages())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", RECURRENT.values(), ids=RECURRENT)
def test_more_vectors_are_no_more_operations(build, dtype, dense):
    torch.manual_seed(0)
    net, x = build(), torch.randn(1, 3, 5, dtype=dtype)
    if isinstance(net, nn.Module):
        net = copy.deepcopy(net).to(dtype).eval()
    else:
        x = x[0]
    (J,) = Trace(net, x).at(x)
    V, U = torch.randn(16, *J.point.shape).to(dtype), torch.randn(16, *J.value.shape).to(dtype)
    for product, block in ((J.jvp, V), (J.vjp, U)):
        assert operations(product, block) < 1.2 * operations(product, block[:2])
    expected = dense(net, x)
    torch.testing.assert_close(J.jvp(V).flatten(1), V.flatten(1) @ expected.T)
    torch.testing.assert_close(J.vjp(U).flatten(1), U.flatten(1) @ expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_products_of_an_lstm_are_recorded_and_fewer_operations(dtype, caplog):
    torch.manual_seed(0)
    net, x = RECURRENT["LSTM"]().to(dtype).eval(), torch.randn(1, 3, 5, dtype=dtype)
    J = JacobianOperator(net, x, derivatives="trace")
    plain = transformed(net, x)
    assert not caplog.text
    V = torch.randn(16, *x.shape).to(dtype)
    assert operations(lambda block: J @ block, V.flatten(1).T.contiguous()) < operations(
        plain.jvp, V
    )
