"""The Jacobians of many points as one operator, of which only one exists at a time."""

import gc
import logging
import weakref

import pytest
import torch
import torch.utils.checkpoint
from support.batch_problems import other_path_below_zero
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, StreamedStack, svds
from jvpsvd.errors import ArgumentError, NonFiniteError, TraceError

DTYPES = [torch.float32, torch.float64]


def problem(dtype, count=5):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 7)).to(dtype)
    return net, torch.randn(count, 12, dtype=dtype)


class Read:
    """A data set that reads a point on request."""

    def __init__(self, points):
        self.points, self.reads = points, 0

    def __len__(self):
        return len(self.points)

    def __getitem__(self, index):
        self.reads += 1
        return self.points[index].clone()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [lambda X: X, list, Read], ids=["tensor", "list", "data set"])
def test_products_are_those_of_the_stacked_jacobian(kind, dtype, dense):
    net, X = problem(dtype)
    expected = torch.cat([dense(net, x) for x in X])
    J = StreamedStack.over(net, kind(X))
    assert (J.shape, len(J)) == ((35, 12), 5)
    torch.testing.assert_close(J @ torch.eye(12, dtype=dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(35, dtype=dtype), expected.T)
    G = J.mean_gram()
    torch.testing.assert_close(G @ torch.eye(12, dtype=dtype), expected.T @ expected / 5)
    torch.testing.assert_close(G.T @ torch.eye(12, dtype=dtype), expected.T @ expected / 5)
    assert J.products == (12, 35)


def test_top_triplets_of_a_class_and_of_its_mean_gram(dense):
    net, X = problem(torch.float64)
    expected = torch.linalg.svdvals(torch.cat([dense(net, x) for x in X]))[:3]
    J = StreamedStack.over(net, X)
    stacked, gram = svds(J, k=3, tol=1e-9), svds(J.mean_gram(), k=3, tol=1e-9)
    torch.testing.assert_close(stacked.s, expected)
    torch.testing.assert_close(gram.s, expected**2 / 5)
    torch.testing.assert_close((stacked.Vh @ gram.Vh.T).abs().diag(), torch.ones(3).double())


def test_only_one_operator_exists_at_a_time(only_new_objects):
    alive, counts = weakref.WeakSet(), []

    def at(index):
        gc.collect()
        counts.append(len(alive))
        A = MatrixOperator(torch.full((2, 3), float(index)))
        alive.add(A)
        return A

    J = StreamedStack(at, 6)
    J.T @ (J @ torch.ones(3))
    J.mean_gram() @ torch.ones(3)
    assert max(counts) <= 1


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (torch.ones(3, 3), "operator 2 is 3 x 3"),
        (torch.ones(2, 3).double(), "operator 2 is 2 x 3 in torch.float64"),
    ],
)
def test_one_of_another_kind_is_named(odd, message):
    J = StreamedStack(lambda i: MatrixOperator(odd if i == 2 else torch.ones(2, 3)), 4)
    with pytest.raises(ArgumentError, match=message):
        J @ torch.ones(3)


def test_nothing_to_stack_is_refused():
    with pytest.raises(ArgumentError, match="no point"):
        StreamedStack.over(torch.sin, [])
    with pytest.raises(ArgumentError, match="count=0"):
        StreamedStack(lambda i: MatrixOperator(torch.ones(2, 2)), 0)
    with pytest.raises(ArgumentError, match="batch of 3"):
        StreamedStack(lambda i: MatrixOperator(torch.ones(3, 2, 2)), 2)


def test_a_point_whose_value_is_not_finite():
    J = StreamedStack.over(torch.log, torch.tensor([[1.0], [0.0]]))
    with pytest.raises(NonFiniteError):
        J @ torch.ones(1)


def test_a_function_that_looks_at_values_takes_each_point_on_its_path(caplog):
    def fn(x):
        return x**2 if x.sum() > 0 else 3 * x

    X = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = StreamedStack.over(fn, X)
        assert (J @ torch.ones(2)).tolist() == [2.0, 4.0, 3.0, 3.0]
    (record,) = (r for r in caplog.records if r.name.startswith("jvpsvd"))
    assert "cannot record the function" in record.getMessage()


def test_a_recording_that_does_not_hold_at_a_point_is_an_error():
    J = StreamedStack.over(other_path_below_zero, torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))
    with pytest.raises(TraceError, match="differs from its recording"):
        J @ torch.ones(2)


def test_operators_may_be_made_in_any_way(dense):
    net, X = problem(torch.float64, count=3)
    J = StreamedStack(lambda i: JacobianOperator(net, X[i], derivatives="transforms"), 3)
    expected = torch.cat([dense(net, x) for x in X])
    torch.testing.assert_close(J @ torch.eye(12).double(), expected)


@pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning")
def test_what_torch_func_cannot_take_goes_by_reverse_passes(dense):
    net, X = problem(torch.float64, count=2)

    def fn(x):
        return torch.utils.checkpoint.checkpoint(net, x, use_reentrant=False)

    expected = torch.cat([dense(net, x) for x in X])
    J = StreamedStack.over(fn, X)
    torch.testing.assert_close(J @ torch.eye(12).double(), expected)
    torch.testing.assert_close(J.T @ torch.eye(14).double(), expected.T)


def test_points_are_evaluated_in_full_precision():
    seen = []

    def fn(x):
        seen.append(torch.backends.mkldnn.matmul.fp32_precision)
        return x**2

    torch.set_float32_matmul_precision("medium")
    try:
        J = StreamedStack.over(fn, torch.ones(2, 3))
        seen.clear()
        J @ torch.ones(3)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert set(seen) == {"ieee"}
