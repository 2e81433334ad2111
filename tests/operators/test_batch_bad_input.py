"""Blocks, indices, partners and points that a batch does not take, each refused in one line."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, as_scipy
from jvpsvd.errors import ArgumentError, ModelError, NonFiniteError, TraceError
from jvpsvd.operators import LinearOperator, Trace

A = MatrixOperator(torch.ones(4, 3, 2))


@pytest.mark.parametrize(
    "block",
    [torch.ones(5, 2, 1), torch.ones(4, 3, 1), torch.ones(3, 1), torch.ones(1, 4, 2, 1)],
    ids=lambda block: str(tuple(block.shape)),
)
def test_blocks_of_another_shape(block):
    with pytest.raises(
        ArgumentError,
        match=r"matmat of an operator of shape 4 x 3 x 2 takes V of shape \(4, 2, b\) or \(2, b\)",
    ):
        A.matmat(block)


@pytest.mark.parametrize("vector", [torch.ones(4, 1, 2), torch.ones(3), torch.ones(2, 2)])
def test_vectors_of_another_shape(vector):
    with pytest.raises(ArgumentError, match="takes V of shape"):
        A.matvec(vector)


@pytest.mark.parametrize(
    "other", [MatrixOperator(torch.ones(3, 2)), MatrixOperator(torch.ones(5, 3, 2))]
)
def test_batches_of_another_size_and_single_operators_do_not_mix(other):
    for combine in (
        lambda: A + other,
        lambda: other + A,
        lambda: A.T @ other,
        lambda: other.T @ A,
    ):
        with pytest.raises(ArgumentError, match="combine batches of one size, or single operators"):
            combine()


def test_shapes_within_batches_must_fit():
    B = MatrixOperator(torch.ones(4, 5, 5))
    with pytest.raises(ArgumentError, match="cannot add 4 x 3 x 2 and 4 x 5 x 5: shapes differ"):
        A + B
    with pytest.raises(ArgumentError, match="cannot compose 4 x 3 x 2 with 4 x 5 x 5: inner"):
        A @ B


@pytest.mark.parametrize(
    "index",
    [
        [],
        [4],
        [-1],
        [0.0],
        [True, False, True, False],
        torch.tensor([True, False, False, False]),
        torch.tensor([[0]]),
        torch.tensor(0),
    ],
    ids=str,
)
def test_indices_that_are_not_in_the_batch(index):
    with pytest.raises(ArgumentError, match="select takes indices 0 to 3 of the batch") as caught:
        A.select(index)
    assert "\n" not in str(caught.value)


def test_selecting_from_what_cannot_be_divided():
    class Whole(LinearOperator):
        def _matmat(self, V):
            return V

        def _rmatmat(self, U):
            return U

    with pytest.raises(ArgumentError, match="batch of a Whole cannot be divided"):
        Whole((2, 3, 3), torch.float32).T.select([0])
    with pytest.raises(ArgumentError, match="select: an operator of shape 3 x 2 is no batch"):
        MatrixOperator(torch.ones(3, 2)).select([0])


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3, 4), ()])
def test_shapes_that_are_no_operators(shape):
    class Empty(LinearOperator):
        def _matmat(self, V):
            return V

        def _rmatmat(self, U):
            return U

    with pytest.raises(ArgumentError, match=r"give \(m, n\), or \(B, m, n\)"):
        Empty(shape, torch.float32)


def test_scipy_has_no_batches():
    with pytest.raises(ArgumentError, match="one of 4 matrices; take one matrix at a time"):
        as_scipy(A)


@pytest.mark.parametrize("dims", [2, -1, None, "1"])
def test_batch_dims_other_than_none_and_one(dims):
    with pytest.raises(ArgumentError, match=f"batch_dims={dims!r} must be 0"):
        JacobianOperator(torch.sin, torch.ones(2, 2, 2), batch_dims=dims)


def test_no_points_at_all():
    with pytest.raises(ArgumentError, match=r"non-empty tensor .*\(0, 3\)"):
        JacobianOperator(torch.sin, torch.ones(0, 3), batch_dims=1)
    with pytest.raises(ArgumentError, match="x has no dimension"):
        JacobianOperator(torch.sin, torch.tensor(1.0), batch_dims=1)
    with pytest.raises(TraceError, match="give at least one"):
        Trace(torch.sin, torch.ones(3)).at_many(torch.ones(0, 3))


@pytest.mark.parametrize("X", [torch.ones(2, 4), torch.ones(3), torch.ones(2, 3).double()])
def test_points_of_another_kind_than_recorded(X):
    with pytest.raises(TraceError, match="record again for this kind of point"):
        Trace(torch.sin, torch.ones(3)).at_many(X)


def test_points_where_the_value_is_not_finite_are_named():
    X = torch.tensor([[1.0], [-1.0], [2.0], [0.0]])
    with pytest.raises(NonFiniteError, match="at points 1, 3 of the batch holds NaN or infinity"):
        JacobianOperator(torch.log, X, batch_dims=1)
    with pytest.raises(NonFiniteError, match="at point 1 of the batch holds NaN"):
        JacobianOperator(torch.log, X[:3], batch_dims=1)
    (J,) = Trace(torch.log, torch.ones(1)).at_many(X)
    with pytest.raises(NonFiniteError, match="at points 1, 3 of the batch"):
        JacobianOperator.from_linear_map(J)


def test_values_of_different_shapes_have_no_batch():
    X = torch.tensor([[1.0, 2.0], [1.0, -2.0]])
    with pytest.raises(ArgumentError, match=r"\(2,\) on cpu at point 0 .* at point 1"):
        JacobianOperator(lambda x: x[x > 0], X, batch_dims=1)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ModelError, match="training mode"):
        JacobianOperator(nn.Sequential(nn.Dropout(0.5)), torch.ones(2, 3), batch_dims=1)


def test_a_random_function_is_refused():
    with pytest.raises(ArgumentError, match="two different values at the same point"):
        JacobianOperator(lambda x: x * torch.rand(8), torch.ones(3, 8), batch_dims=1)
