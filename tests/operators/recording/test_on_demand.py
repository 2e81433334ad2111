"""Small networks: few products are taken without a recording, many with one."""

import copy
import itertools

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.count import count_work
from jvpsvd.operators.recording import on_demand

pytestmark = pytest.mark.on_demand

DTYPES = [torch.float32, torch.float64]


@pytest.fixture
def recordings(monkeypatch):
    made = []
    from jvpsvd.operators.recording import trace

    record = trace.record
    monkeypatch.setattr(trace, "record", lambda *a, **k: made.append(1) or record(*a, **k))
    return made


def mlp(*sizes, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [(nn.Linear(m, n), nn.Tanh()) for m, n in itertools.pairwise(sizes)]
    return nn.Sequential(*(layer for pair in layers for layer in pair)).to(dtype)


def near(dtype):
    return {"rtol": 0, "atol": {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(90, 20, 5), (5, 20, 90)], ids=["few rows", "few columns"])
def test_a_jacobian_with_a_short_side_is_never_recorded(sizes, dtype, dense, recordings):
    net, x = mlp(*sizes, dtype=dtype), torch.linspace(-1, 1, sizes[0], dtype=dtype)
    J = JacobianOperator(net, x)
    for point in (x, -x):
        J = J.at(point)
        expected = dense(net, point)
        torch.testing.assert_close(J.to_dense(), expected, **near(dtype))
        torch.testing.assert_close(J.T.to_dense(), expected.T, **near(dtype))
        torch.testing.assert_close(svds(J, 3).s, torch.linalg.svdvals(expected)[:3], **near(dtype))
    assert not recordings


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_products_are_recorded_once(dtype, dense, recordings):
    net, x = mlp(70, 80, 90, dtype=dtype), torch.linspace(-1, 1, 70, dtype=dtype)
    J = JacobianOperator(net, x)
    expected, V = dense(net, x), torch.eye(70, 4, dtype=dtype)
    few = J @ V
    assert not recordings
    for _ in range(40):
        torch.testing.assert_close(J @ V, expected[:, :4], **near(dtype))
        torch.testing.assert_close(J.T @ (J @ V), expected.T @ expected[:, :4], **near(dtype))
    assert len(recordings) == 1
    torch.testing.assert_close(few, J @ V, **near(dtype))
    moved = J.at(-x)
    torch.testing.assert_close(moved.to_dense(), dense(net, -x), **near(dtype))
    assert len(recordings) == 1


def test_products_at_all_points_count_together(recordings):
    net = mlp(70, 80, 90)
    x = torch.linspace(-1, 1, 70, dtype=torch.float64)
    J = JacobianOperator(net, x)
    for step in range(60):
        J = J.at(x + step)
        J @ x
    assert len(recordings) == 1


def test_the_same_products_are_computed_in_the_same_way():
    net, x = mlp(70, 80, 90, dtype=torch.float32), torch.linspace(-1, 1, 70)
    first, second = (svds(JacobianOperator(net, x, chunk=8), 5, block_size=2) for _ in range(2))
    for name in ("U", "s", "Vh"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_large_network_is_recorded_at_once(recordings):
    wide = nn.Sequential(nn.Conv2d(16, 64, 5), nn.Conv2d(64, 64, 5))
    x = torch.zeros(1, 16, 24, 24)
    assert on_demand.calls_of_product(count_work(wide, x), 32) > 100
    JacobianOperator(wide, x)
    assert len(recordings) == 1


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
def test_a_function_that_cannot_be_recorded_goes_on_without(dense, recordings, caplog):
    def fn(x):
        return x**2 if float(x.sum()) < 1e9 else x

    x = torch.linspace(-1, 1, 70, dtype=torch.float64)
    with caplog.at_level("INFO", logger="jvpsvd"):
        J = JacobianOperator(fn, x)
        for _ in range(40):
            torch.testing.assert_close(J @ x, 2 * x * x)
    assert len(recordings) == 1
    assert [r.message for r in caplog.records if "going on with vmap" in r.message]


@pytest.mark.parametrize("products", [0, 1, 50])
@pytest.mark.parametrize("sizes", [(90, 20, 5), (70, 80, 90)], ids=["written", "on demand"])
@pytest.mark.parametrize("change", ["in place", "data"])
def test_products_are_refused_once_weights_have_changed(sizes, products, change):
    net, x = mlp(*sizes), torch.linspace(-1, 1, sizes[0], dtype=torch.float64)
    J = JacobianOperator(net, x)
    for _ in range(products):
        J @ x
    with torch.no_grad():
        if change == "in place":
            net[0].weight.mul_(2)
        else:
            net[0].weight.data = 2 * net[0].weight.data
    with pytest.raises(ArgumentError, match="weights have changed"):
        J @ x


def test_the_option_trace_records_at_once(recordings):
    JacobianOperator(mlp(9, 5), torch.ones(9, dtype=torch.float64), derivatives="trace")
    assert len(recordings) == 1


def test_a_moved_point_is_perturbed_likewise(dense):
    for sizes in ((90, 20, 5), (5, 20, 90), (70, 80, 90)):
        net, x = mlp(*sizes), torch.linspace(-1, 1, sizes[0], dtype=torch.float64)
        J = JacobianOperator(net, x)
        for _ in range(60):
            J @ x
        moved = J.perturbed_by_rounding(0)
        torch.testing.assert_close(moved.to_dense(), dense(net, moved.point))


def test_a_further_point_sees_changes_before_and_after_a_recording(dense):
    net, x = mlp(70, 80, 90), torch.linspace(-1, 1, 70, dtype=torch.float64)
    J = JacobianOperator(net, x)
    for _ in range(3):
        changed = copy.deepcopy(net.state_dict())
        net.load_state_dict({name: 0.9 * t for name, t in changed.items()}, assign=True)
        J = J.at(-x)
        torch.testing.assert_close(J.to_dense(), dense(net, -x))
        for _ in range(60):
            J @ x
        net[0].weight.data.mul_(0.5)
        torch.testing.assert_close(J.at(x).to_dense(), dense(net, x))
