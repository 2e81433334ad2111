"""When products are recorded: once a recording would have saved as much as it takes."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.work import count_work
from jvpsvd.operators.recording import by_size

pytestmark = pytest.mark.on_demand


class LongLoop(nn.Module):
    """A loop of small operations in Python."""

    def forward(self, x):
        for _ in range(100):
            x = 1.01 * torch.tanh(x)
        return x


class Recurrent(nn.Module):
    """As many operations as the loop has, in one call of torch."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.LSTM(8, 16, batch_first=True)

    def forward(self, x):
        return self.layer(x[None])[0][0]


@pytest.fixture
def recordings(monkeypatch):
    made, record = [], by_size.record
    monkeypatch.setattr(by_size, "record", lambda *a, **k: made.append(1) or record(*a, **k))
    return made


def test_few_triplets_of_a_long_sequence_are_not_recorded(recordings):
    """A recording would take several times as long as all of their products."""
    torch.manual_seed(0)
    J = JacobianOperator(Recurrent().eval(), torch.randn(60, 8), chunk=8)
    found = svds(J, 5, method="golub-kahan", block_size=2)
    assert found.products.forward > 32
    assert not recordings


def test_many_triplets_of_a_long_sequence_are_recorded(recordings):
    torch.manual_seed(0)
    J = JacobianOperator(Recurrent().eval(), torch.randn(20, 8), chunk=8)
    svds(J, 60, method="golub-kahan", block_size=1)
    assert len(recordings) == 1


def test_a_loop_in_python_is_recorded_after_fewer_products(recordings):
    x = torch.linspace(-1, 1, 16)
    J = JacobianOperator(LongLoop().eval(), x)
    for _ in range(25):
        J @ x
    assert len(recordings) == 1


def test_calls_from_python_are_counted_apart_from_operations():
    loop = count_work(prepare(LongLoop().eval()), torch.linspace(-1, 1, 16))[1]
    layer = count_work(prepare(Recurrent().eval()), torch.randn(60, 8))[1]
    assert loop.functions == loop.calls > 200
    assert layer.functions < 20 < 500 < layer.calls
