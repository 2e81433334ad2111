"""Making an operator evaluates the function and multiplies no more often than checks need."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace
from jvpsvd.operators.recording.operations import record_operations


class Counted(nn.Module):
    """A network whose rows act on each other, with a count of its evaluations."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 4)
        self.evaluations = []

    def forward(self, x):
        self.evaluations.append(None)
        x = self.first(x).tanh()
        return self.last(x - x.mean(0))


class Multiplications(TorchDispatchMode):
    """Counts products of matrices that are computed."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten.mm.default and args[0].device.type != "meta"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def evaluations():
    """The evaluations of what is made: a list outside of the network, which is restored."""
    return []


def counted(net, evaluations):
    def fn(x):
        evaluations.append(None)
        return net(x)

    return fn


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_operator_that_is_recorded_evaluates_the_function_three_times(dtype, evaluations):
    """Its value, its products, and the value at a moved point."""
    net, x = Counted().to(dtype), torch.randn(5, 6, dtype=dtype)
    JacobianOperator(counted(net, evaluations), x, derivatives="trace")
    assert len(evaluations) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_that_is_not_recorded_evaluates_it_four_times(dtype, evaluations):
    """Its value, both products, and the value at a moved point."""
    net, x = Counted().to(dtype), torch.randn(5, 6, dtype=dtype)
    JacobianOperator(counted(net, evaluations), x, derivatives="transforms")
    assert len(evaluations) == 4


def test_a_hidden_part_of_the_derivative_takes_the_second_step(evaluations, caplog):
    fn = counted(lambda x: x + x.detach(), evaluations)
    JacobianOperator(fn, torch.randn(5), derivatives="trace")
    assert "explain only a part" in caplog.text


def test_weights_are_not_multiplied_by_zero_changes_of_weights():
    """Forward mode of a layer would multiply x by the change of the weight."""
    net, x = nn.Linear(6, 4).requires_grad_(False), torch.randn(5, 6)

    def jvp(x, v):
        return torch.func.jvp(net, (x,), (v,))

    with Multiplications() as seen, torch.no_grad():
        graph = record_operations(jvp, x, x.cos())
    assert seen.count == 1  # of the direction
    graph.recompile()
    for z in (x, 2 - x):
        torch.testing.assert_close(graph(z, z.sin()), jvp(z, z.sin()))


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_a_weight_that_is_zero_now_is_multiplied_by(scale, dense):
    """Only zeros that torch made stand for no product."""
    weight = nn.Parameter(torch.tensor(scale, dtype=torch.float64))
    fn = lambda x: x @ weight.expand(3, 3) + x.sin()  # noqa: E731
    x = torch.randn(2, 3, dtype=torch.float64)
    trace = Trace(fn, x)
    weight.data.add_(1)
    (J,) = trace.at(x)
    torch.testing.assert_close(
        J.jvp(torch.eye(6, dtype=x.dtype).reshape(6, 2, 3)).reshape(6, 6).T, dense(fn, x)
    )


def waves(x):
    for _ in range(24):
        x = x.sin()
    return x


@pytest.fixture
def little_together(monkeypatch):
    """What is large is a thousandth of what it is for users."""
    monkeypatch.setattr("jvpsvd.operators.recording.record.MOST_TOGETHER", 1 << 20)


@pytest.mark.parametrize("entries", [10, 1 << 12])
def test_several_outputs_are_recorded_once_however_large_they_are(
    entries, evaluations, little_together
):
    fn = counted(lambda x: (waves(x), x.cos()), evaluations)
    x = torch.linspace(-1, 1, entries)
    both = Trace(fn, x).at(x, check=False)
    assert len(evaluations) == 4  # the values, J v of both, and J'u of each
    torch.testing.assert_close(both[1].jvp(torch.ones(1, entries))[0], -x.sin())


@pytest.mark.parametrize(("entries", "count"), [(10, 3), (1 << 12, 5)])
def test_products_of_a_large_recording_are_taken_one_after_the_other(
    entries, count, evaluations, little_together
):
    """Both together would hold the memory of both: that evaluation is broken off."""
    x = torch.linspace(-1, 1, entries)
    J = JacobianOperator(counted(waves, evaluations), x, derivatives="trace")
    assert len(evaluations) == count
    v, slope = torch.ones(entries), torch.ones(entries)
    for _ in range(24):
        slope, x = slope * x.cos(), x.sin()
    torch.testing.assert_close(J @ v, slope)
    torch.testing.assert_close(J.T @ v, slope)
