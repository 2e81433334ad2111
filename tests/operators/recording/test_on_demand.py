"""Small networks: few products are taken without a recording, many with one."""

import copy
import itertools

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.work import count_work
from jvpsvd.operators.recording import on_demand

pytestmark = pytest.mark.on_demand

DTYPES = [torch.float32, torch.float64]


@pytest.fixture
def recordings(monkeypatch):
    made = []
    from jvpsvd.operators.recording import by_size

    record = by_size.record
    monkeypatch.setattr(by_size, "record", lambda *a, **k: made.append(1) or record(*a, **k))
    return made


def mlp(*sizes, dtype=torch.float64):
    torch.manual_seed(0)
    layers = [(nn.Linear(m, n), nn.Tanh()) for m, n in itertools.pairwise(sizes)]
    return nn.Sequential(*(layer for pair in layers for layer in pair)).to(dtype)


def near(dtype):
    return {"rtol": 0, "atol": {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(90, 20, 5), (5, 20, 90)], ids=["few rows", "few columns"])
def test_one_solve_of_a_jacobian_with_a_short_side_is_not_recorded(sizes, dtype, dense, recordings):
    net, x = mlp(*sizes, dtype=dtype), torch.linspace(-1, 1, sizes[0], dtype=dtype)
    J, expected = JacobianOperator(net, x), dense(net, x)
    torch.testing.assert_close(J.to_dense(), expected, **near(dtype))
    torch.testing.assert_close(J.T.to_dense(), expected.T, **near(dtype))
    torch.testing.assert_close(svds(J, 3).s, torch.linalg.svdvals(expected)[:3], **near(dtype))
    assert not recordings
    for step in range(9):
        J = J.at(x - step)
        expected = torch.linalg.svdvals(dense(net, x - step))[:3]
        torch.testing.assert_close(svds(J, 3).s, expected, **near(dtype))
    assert len(recordings) == 1


def test_products_show_the_digits_that_they_lose():
    """Layer normalisation far from zero: those of a written matrix would not."""
    x = 1e6 + torch.linspace(-1, 1, 12, dtype=torch.float64)
    J = JacobianOperator(nn.LayerNorm(12).double(), x)
    V = torch.eye(12, dtype=torch.float64)
    assert (J @ V - (J.T @ V).T).norm() > 1e-13


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
    assert on_demand.calls_of_product(count_work(wide, x)[1], 32) > 100
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
@pytest.mark.parametrize("sizes", [(90, 20, 5), (70, 80, 90)], ids=["short", "long"])
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


def points(count, size, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, dtype=dtype, generator=generator)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(90, 20, 5), (5, 20, 90)], ids=["few rows", "few columns"])
def test_one_solve_of_a_batch_is_not_recorded(sizes, dtype, dense, recordings):
    net, X = mlp(*sizes, dtype=dtype), points(7, sizes[0], dtype)
    J = JacobianOperator(net, X, batch_dims=1)
    expected = torch.stack([dense(net, x) for x in X])
    torch.testing.assert_close(J.to_dense(), expected, **near(dtype))
    torch.testing.assert_close(J.T.to_dense(), expected.mT, **near(dtype))
    torch.testing.assert_close(svds(J, 3).s, torch.linalg.svdvals(expected)[:, :3], **near(dtype))
    chosen = J.select([4, 1])
    torch.testing.assert_close(chosen.to_dense(), expected[[4, 1]], **near(dtype))
    moved = J.at(-X[:3])
    expected = torch.stack([dense(net, -x) for x in X[:3]])
    torch.testing.assert_close(moved.to_dense(), expected, **near(dtype))
    assert not recordings


def test_products_of_many_matrices_of_a_batch_are_recorded_once(dense, recordings):
    net, X = mlp(70, 80, 90), points(3, 70)
    J = JacobianOperator(net, X, batch_dims=1)
    chosen = J.select([2, 0])
    expected = torch.stack([dense(net, x) for x in X])
    for _ in range(40):
        torch.testing.assert_close(J.matvec(X), (expected @ X[..., None])[..., 0])
        torch.testing.assert_close(
            chosen.matvec(X[:2]), (expected[[2, 0]] @ X[:2, :, None])[..., 0]
        )
    assert len(recordings) == 1
    torch.testing.assert_close(J.at(-X).to_dense(), torch.stack([dense(net, -x) for x in X]))
    assert len(recordings) == 1


@pytest.mark.parametrize("width", [0, 1, 3])
def test_a_batch_of_functions_that_depend_on_nothing_or_on_half(width):
    X = points(2, 4)
    half = JacobianOperator(lambda x: torch.cat([x.new_ones(2), x[:1] ** 2]), X, batch_dims=1)
    assert (half @ X.new_ones(4, width)).shape == (2, 3, width)
    torch.testing.assert_close(half.to_dense()[:, 2, 0], 2 * X[:, 0])
    none = JacobianOperator(lambda x: x.new_ones(3), X, batch_dims=1)
    assert none.matmat(X.new_ones(4, width)).eq(0).all()
    assert none.rmatmat(X.new_ones(3, width)).eq(0).all()


def test_a_batch_that_vmap_cannot_take_is_recorded_or_taken_point_by_point(dense):
    def fn(x):
        return x**2 if float(x.detach().sum()) > 0 else x**3

    X = torch.stack([torch.ones(3), -torch.ones(3)]).double()
    J = JacobianOperator(fn, X, batch_dims=1)
    torch.testing.assert_close(J.to_dense(), torch.stack([dense(fn, x) for x in X]))


@pytest.mark.parametrize("products", [0, 50])
@pytest.mark.parametrize("change", ["in place", "data"])
def test_products_of_a_batch_are_refused_once_weights_have_changed(products, change):
    net, X = mlp(70, 80, 90), points(3, 70)
    J = JacobianOperator(net, X, batch_dims=1)
    for _ in range(products):
        J.matvec(X)
    with torch.no_grad():
        if change == "in place":
            net[0].weight.mul_(2)
        else:
            net[0].weight.data = 2 * net[0].weight.data
    with pytest.raises(ArgumentError, match="weights have changed"):
        J.matvec(X)
    torch.testing.assert_close(J.at(X).value, net(X))


def test_a_batch_evaluates_fn_once_at_each_point():
    """And a few times more at the first and the last one."""
    counts = []
    for count in (10, 30):
        calls = []

        def fn(x, calls=calls):
            calls.append(x.shape)
            return x.tanh()

        JacobianOperator(fn, points(count, 40), batch_dims=1)
        counts.append(len(calls))
    assert counts[1] - counts[0] == 20


@pytest.mark.parametrize("batch_dims", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("products", [0, 50])
def test_products_at_points_moved_by_rounding_are_those_of_each(batch_dims, transposed, products):
    net, X = mlp(70, 80, 90, dtype=torch.float32), points(3, 70, torch.float32)
    J = JacobianOperator(net, X if batch_dims else X[0], batch_dims=batch_dims)
    for _ in range(products):
        J @ X[0]
    A = J.T if transposed else J
    V, before, seeds = torch.randn(A.shape[-1], 2), J.products, [5, 6]
    changes = A.changed_products(V, A @ V, seeds)
    count = 2 * 3 ** (1 if batch_dims else 0)
    done = J.products.since(before)
    assert tuple(done) == ((0, 3 * count) if transposed else (3 * count, 0))
    for seed, change in zip(seeds, changes, strict=True):
        expected = A.perturbed_by_rounding(seed) @ V
        torch.testing.assert_close(A @ V + change, expected, rtol=0, atol=1e-5)


def test_products_at_moved_points_are_left_where_they_are_no_less_work(recordings):
    wide = nn.Sequential(nn.Conv2d(16, 64, 5), nn.Conv2d(64, 64, 5))
    J = JacobianOperator(wide, torch.zeros(1, 16, 24, 24))
    assert J.changed_products(J.point.reshape(-1, 1), J.value.reshape(-1, 1), [0]) is None


def test_a_function_that_vmap_cannot_take_is_moved_point_by_point():
    def fn(x):
        return x**2 if float(x.sum().detach()) < 1e9 else x

    J = JacobianOperator(fn, torch.linspace(-1, 1, 20, dtype=torch.float64))
    for _ in range(2):
        assert J.changed_products(torch.ones(20, 1).double(), J.value[:, None], [0]) is None
    assert 0 <= svds(J, 3).certificate.defined_to < 1e-13
