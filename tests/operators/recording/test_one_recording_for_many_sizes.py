"""One recording serves points of many sizes where it is the same for them, and no other point."""

import itertools
import logging

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from jvpsvd import JacobianOperator, spectra, svds
from jvpsvd.errors import DerivativeError
from jvpsvd.operators import Trace

N = 8
torch.manual_seed(0)
W, V = torch.randn(2, N, N, dtype=torch.float64)


def point(size):
    """A point with so many positive entries, at which functions below have this size."""
    x = torch.rand(N, generator=torch.Generator().manual_seed(size), dtype=torch.float64) + 0.1
    return torch.where(torch.arange(N) < size, x, -x)


def more_than_three(y, rows):
    return 3 * y.sin() if len(rows) > 3 else y


def number_of_more_than_three(y, rows):
    return y * (3 if len(rows) > 3 else 2)


def tensor_of_more_than_three(y, rows):
    return y * torch.tensor(3.0 if len(rows) > 3 else 2.0, dtype=torch.float64)


def loop(y, rows):
    for _ in range(len(rows)):
        y = y.sin()
    return y


def short_loop(y, rows):
    for _ in range(min(len(rows), 4)):
        y = y.sin()
    return y


AT_SIZE = {
    "nothing": lambda y, rows: y,
    "mean": lambda y, rows: y - y.mean(),
    "sum": lambda y, rows: y - y.sum(),
    "variance": lambda y, rows: y * (y - y.mean()).square().mean(),
    "divided": lambda y, rows: y / max(len(rows), 1),
    "divided at most by four": lambda y, rows: y / min(max(len(rows), 1), 4),
    "reshaped": lambda y, rows: y.reshape(len(rows), 1).expand(len(rows), 2).sum(1),
    "first four": lambda y, rows: torch.cat([y[:4] ** 2, y[4:]]),
    "last": lambda y, rows: y + y[-1:].sum(),
    "sorted": lambda y, rows: y.sort()[0].cumsum(0),
    "branch": more_than_three,
    "number": number_of_more_than_three,
    "tensor": tensor_of_more_than_three,
    "loop": loop,
    "short loop": short_loop,
}


def function(name):
    """Some rows are taken, changed, and put back."""

    def fn(x):
        rows = torch.where(x > 0)[0]
        y = torch.tanh(x[rows] * (W @ x)[rows])
        return V @ torch.zeros_like(x).index_add(0, rows, AT_SIZE[name](y, rows)) + x.sin()

    return fn


ORDERS = {
    "large ones first": (4, 5, 6, 8, 7, 4, 3, 2, 1, 0, 5, 3),
    "small ones first": (1, 2, 3, 0, 8, 5, 4, 7, 6, 1),
    "none first": (0, 4, 5, 1, 2, 6, 3),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", AT_SIZE)
def test_derivatives_are_those_of_each_size(name, order):
    fn, sizes = function(name), ORDERS[order]
    J = JacobianOperator(fn, point(sizes[0]), derivatives="trace")
    for size in sizes:
        x = point(size)
        torch.testing.assert_close(J.at(x).to_dense(), jacobian(fn, x), msg=f"{size} rows")


@pytest.mark.parametrize("name", AT_SIZE)
def test_batches_are_those_of_each_size(name):
    fn, X = function(name), torch.stack([point(size) for size in (4, 5, 6, 2, 0, 1, 3, 8)])
    (J,) = Trace(fn, X[0]).at_many(X)
    found = J.jvp(torch.eye(N).double().expand(len(X), N, N), chunk=64).mT
    torch.testing.assert_close(found, torch.stack([jacobian(fn, x) for x in X]))


def test_a_branch_that_changes_little_is_seen():
    def fn(x):
        rows = torch.where(x > 0)[0]
        y = torch.tanh(x[rows]) * (1.0001 if len(rows) > 3 else 1.0)
        return torch.zeros_like(x).index_add(0, rows, y)

    J = JacobianOperator(fn, point(4).float(), derivatives="trace")
    for size in (5, 6, 2):  # of less effect than float32 tells apart in value and products
        x = point(size).float()
        torch.testing.assert_close(J.at(x).to_dense(), jacobian(fn, x), rtol=1e-5, atol=1e-6)


def recordings_made(caplog):
    return sum(r.getMessage().endswith("recording it there") for r in caplog.records)


def test_two_recordings_serve_all_sizes_where_none_is_a_number(caplog):
    fn = function("nothing")
    trace = Trace(fn, point(4))
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        for size in (5, 7, 1, 8, 2, 0, 3):
            (J,) = trace.at(point(size))
            dense = J.jvp(torch.eye(N).double()).T
            torch.testing.assert_close(dense, jacobian(fn, point(size)))
    assert recordings_made(caplog) == 1


@pytest.mark.parametrize("name", ["mean", "branch"])
def test_sizes_that_come_again_are_not_recorded_again(name, caplog):
    trace = Trace(function(name), point(4))
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        for size in (2, 4, 2, 4, 2):
            trace.at(point(size))
    assert recordings_made(caplog) == 1


def test_weights_that_changed_are_those_of_a_recording_of_many_sizes():
    scale = torch.ones((), dtype=torch.float64)
    of_rows = function("nothing")
    trace = Trace(lambda x: scale * of_rows(x), point(4))
    trace.at(point(5))
    scale.data.fill_(3.0)
    (J,) = trace.at(point(2))
    truth = 3 * jacobian(of_rows, point(2))
    torch.testing.assert_close(J.jvp(torch.eye(N).double()).T, truth)


class Experts(nn.Module):
    """Each token goes to the best of some experts, which may take none."""

    def __init__(self, width=6, experts=4):
        super().__init__()
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 9), nn.GELU(), nn.Linear(9, width))
            for _ in range(experts)
        )

    def forward(self, x):
        tokens = x.flatten(0, 1)
        weight, expert = self.gate(tokens).softmax(-1).max(-1)
        out = torch.zeros_like(tokens)
        for index, mlp in enumerate(self.experts):
            rows = torch.where(expert == index)[0]
            out = out.index_add(0, rows, mlp(tokens[rows]) * weight[rows, None])
        return out.reshape_as(x)


def experts_and_inputs(count):
    torch.manual_seed(3)
    return Experts().double().eval(), 3 * torch.randn(count, 1, 7, 6, dtype=torch.float64)


def dense(net, x):
    return jacobian(lambda z: net(z).flatten(), x).reshape(x.numel(), x.numel())


def test_mixtures_of_experts_at_points_where_experts_take_other_numbers_of_tokens(caplog):
    net, X = experts_and_inputs(24)
    numbers = {tuple(net.gate(x[0]).argmax(-1).bincount(minlength=4).tolist()) for x in X}
    assert len(numbers) > 15
    assert {0, 1, 2, 3} <= set(itertools.chain(*numbers))
    J = JacobianOperator(net, X[0], derivatives="trace")
    with caplog.at_level(logging.INFO, logger="jvpsvd"):
        for x in X:
            torch.testing.assert_close(J.at(x).to_dense(), dense(net, x))
    assert recordings_made(caplog) < 5


def test_spectra_of_mixtures_of_experts():
    net, X = experts_and_inputs(12)
    S = spectra(net, X[:, 0], layers=["gate", "output"], k="all", progress=False)
    truth = torch.stack([torch.linalg.svdvals(dense(net, x)) for x in X])
    torch.testing.assert_close(S["output"].s, truth)
    assert bool(S["output"].certified.all())


def put(x, rows, y):
    return torch.zeros_like(x).index_add(0, rows, y)


def test_rounding_that_moves_a_size_is_not_replayed():
    """At x one entry equals the bound: moved by rounding, it takes another branch."""

    def by_size(x):
        rows = torch.where(x > 0.5)[0]
        return put(x, rows, x[rows].sin() * (3.0 if len(rows) > 6 else 2.0)) + x

    def above_half(size):
        above, below = torch.linspace(0.9, 0.7, N), torch.linspace(0.1, 0.4, N)
        return torch.where(torch.arange(N) < size, above, below).double()

    x = above_half(6)
    x[6] = 0.5
    J = JacobianOperator(by_size, above_half(4), derivatives="trace")
    for size in (5, 3):
        J = J.at(above_half(size))
    fresh = JacobianOperator(by_size, x, derivatives="transforms")
    moved, expected = (svds(each, 4).certificate.defined_to for each in (J.at(x), fresh))
    assert expected > 0.1
    assert moved == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mean", [False, True])
def test_weights_that_are_equal_now_are_not_taken_for_one(mean):
    """A size chooses between them, and one of them changes later."""
    w1, w2 = torch.ones(N).double(), torch.ones(N).double()

    def chosen(x):
        rows = torch.where(x > 0)[0]
        w = w1 if len(rows) > 3 else w2
        return put(x, rows, (x[rows] - x[rows].mean() if mean else x[rows].sin()) * w[rows])

    trace = Trace(chosen, point(5))
    trace.at(point(2))
    trace.at(point(3))
    w2.fill_(3.0)
    for size in (2, 3, 5):
        (J,) = trace.at(point(size), check=False)
        found = J.jvp(torch.eye(N).double()).T
        assert torch.allclose(found, jacobian(chosen, point(size)))


def test_a_derivative_that_is_hidden_at_another_size_is_told():
    def hides_at_six(x):
        rows = torch.where(x > 0)[0]
        if len(rows) == 6:
            with torch.inference_mode():
                return put(x, rows, 3 * x[rows].sin())
        return put(x, rows, x[rows].sin())

    J = JacobianOperator(hides_at_six, point(4))
    with pytest.raises(DerivativeError):
        J.at(point(6))
