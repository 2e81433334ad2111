"""Stacks of stacks, of compositions, of batches and of networks, and what is left alone."""

import pytest
import torch
from support.agreement import compare
from support.batch_problems import DTYPES, check, matrices, split
from torch import nn

from jvpsvd import JacobianOperator, LinearOperator, MatrixOperator, svds
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Products
from jvpsvd.operators.algebra import stack


def pair(m, n, dtype=torch.float64, seed=0):
    matrix = matrices(1, m, n, dtype, seed)[0]
    return MatrixOperator(matrix), matrix


@pytest.mark.parametrize("dtype", DTYPES)
def test_above_and_next_to_each_other(dtype):
    (A, a), (B, b), (C, c) = pair(3, 4, dtype), pair(1, 4, dtype, 1), pair(3, 2, dtype, 2)
    compare(stack([A]), a)
    compare(stack([A, B]), torch.cat([a, b]))
    compare(stack((B, A, B)), torch.cat([b, a, b]))
    compare(stack([A, C], dim=1), torch.cat([a, c], dim=1))
    compare(stack([A, B]).T, torch.cat([a, b]).T)
    compare(stack([A.T, B.T], dim=1), torch.cat([a.T, b.T], dim=1))
    compare(stack([A.T, C.T]), torch.cat([a, c], dim=1).T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_matrix_by_nesting(dtype):
    (A, a), (B, b) = pair(3, 4, dtype), pair(3, 2, dtype, 1)
    (C, c), (D, d) = pair(5, 4, dtype, 2), pair(5, 2, dtype, 3)
    whole = torch.cat([torch.cat([a, b], 1), torch.cat([c, d], 1)])
    compare(stack([stack([A, B], dim=1), stack([C, D], dim=1)]), whole)
    compare(stack([stack([A, C]), stack([B, D])], dim=1), whole)
    compare(stack([stack([A, stack([C])]), stack([B, D])], dim=1).T, whole.T)


@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_of_compositions_and_compositions_of_stacks(dtype):
    (A, a), (B, b) = pair(3, 4, dtype), pair(3, 4, dtype, 1)
    (C, c), (D, d) = pair(4, 5, dtype, 2), pair(2, 6, dtype, 3)
    both = torch.cat([a, b])
    compare(stack([A + B, 2 * A, B]), torch.cat([a + b, 2 * a, b]))
    compare(stack([A @ C, C]), torch.cat([a @ c, c]))
    compare(stack([A, B]) @ C, both @ c)
    compare(2 * stack([A, B]), 2 * both)
    compare(stack([A, B]) + stack([B, A]), torch.cat([a + b, a + b]))
    compare(D @ stack([A, B]), d @ both)
    compare(stack([A, B], dim=1) @ stack([C, C]), a @ c + b @ c)
    compare(stack([A, B]).T @ stack([A, B]), both.T @ both)


def test_one_operator_twice():
    A, a = pair(3, 4)
    compare(stack([A, A]), torch.cat([a, a]))
    compare(stack([A, A.T.T], dim=1), torch.cat([a, a], dim=1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches(dtype):
    a, b, c = matrices(4, 3, 2, dtype), matrices(4, 1, 2, dtype, 1), matrices(4, 3, 5, dtype, 2)
    A, B, C = MatrixOperator(a), MatrixOperator(b), MatrixOperator(c)
    above, next_to = torch.cat([a, b], dim=1), torch.cat([a, c], dim=2)
    check(stack([A, B]), split(above))
    check(stack([A, C], dim=1), split(next_to))
    check(stack([A, B]).select([3, 0]), split(above[[3, 0]]))
    check(stack([A, C], dim=1).select([1]), split(next_to[[1]]))
    check(
        stack([stack([A, B]), 2 * A]).T.select([2, 1]),
        split(torch.cat([above, 2 * a], 1).mT[[2, 1]]),
    )
    check(stack([A, B]) @ A.T, split(above @ a.mT))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_depths_of_a_network_together(dtype, batch_dims, dense):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).to(dtype)
    whole = nn.Sequential(first, nn.Linear(5, 3), nn.Sigmoid()).to(dtype)
    X = torch.randn(3, 6, dtype=dtype)
    x = X if batch_dims else X[0]
    both = stack([JacobianOperator(net, x, batch_dims=batch_dims) for net in (first, whole)])
    truth = [torch.cat([dense(first, z), dense(whole, z)]) for z in X]
    if batch_dims:
        check(both, [MatrixOperator(matrix) for matrix in truth])
    else:
        compare(both, truth[0])


@pytest.mark.parametrize("dim", [0, 1])
def test_a_product_is_one_of_each_part(dim):
    A, B = MatrixOperator(torch.ones(3, 3)), MatrixOperator(torch.ones(3, 3))
    both = stack([A, B, B], dim=dim)
    both @ torch.ones(both.shape[1], 5)
    both.rmatvec(torch.ones(both.shape[0]))
    assert both.products == Products(5, 1)
    assert A.products == Products(5, 1)
    assert B.products == Products(10, 2)


def test_the_vectors_of_a_batch_and_of_its_selection_are_counted():
    A, B = MatrixOperator(matrices(4, 3, 2)), MatrixOperator(matrices(4, 1, 2))
    both = stack([A, B])
    both @ torch.ones(2, 5, dtype=A.dtype)
    both.select([0, 3]).rmatvec(torch.ones(4, dtype=A.dtype))
    assert both.products == A.products == B.products == Products(20, 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_the_adjoint_belongs_to_the_operator(dtype, dim):
    parts = [pair(7, 7, dtype, seed)[0] for seed in range(3)]
    A = stack([parts[0], parts[1] @ parts[2], parts[1].T], dim=dim)
    generator = torch.Generator().manual_seed(5)
    v, u = (torch.randn(size, dtype=dtype, generator=generator) for size in A.shape[::-1])
    torch.testing.assert_close(u @ (A @ v), (A.T @ u) @ v, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dim", [0, 1])
def test_blocks_and_matrices_given_are_left_alone(dim):
    A, a = pair(3, 3)
    B, b = pair(3, 3, seed=1)
    both, kept = stack([A, B], dim=dim), (a.clone(), b.clone())
    for product, rows in ((both.matmat, both.shape[1]), (both.rmatmat, both.shape[0])):
        for block in (torch.ones(rows, 2, dtype=a.dtype), torch.ones(2, rows, dtype=a.dtype).T):
            product(block).fill_(7)
            assert (block == 1).all()
    assert a.equal(kept[0])
    assert b.equal(kept[1])


class Keeping(MatrixOperator):
    """Hands out one and the same block of values at every product."""

    def _rmatmat(self, U):
        self.image = super()._rmatmat(U)
        return self.image


def test_what_a_part_returned_is_not_added_to():
    A, a = Keeping(torch.ones(2, 3)), torch.ones(2, 3)
    stack([A, A.T.T, MatrixOperator(a)]).rmatmat(torch.ones(6, 2))
    assert (A.image == 2).all()


def test_the_list_may_change_afterwards():
    A, a = pair(2, 3)
    parts = [A, A]
    both = stack(parts)
    parts.clear()
    compare(both, torch.cat([a, a]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_svds_finds_the_values_of_all_together(dtype, dim):
    (A, a), (B, b) = pair(9, 9, dtype), pair(9, 9, dtype, 1)
    U, s, Vh = torch.linalg.svd(torch.cat([a, b], dim=dim), full_matrices=False)
    found = svds(stack([A, B], dim=dim), 4)
    torch.testing.assert_close(found.s, s[:4], rtol=1e-5, atol=0)
    for ours, theirs in ((found.U, U[:, :4]), (found.Vh.T, Vh[:4].T)):
        overlap = (ours * theirs).sum(0).abs()
        torch.testing.assert_close(overlap, torch.ones_like(s[:4]), rtol=1e-4, atol=0)


def test_svds_of_a_batch_of_stacks():
    a, b = matrices(3, 6, 5), matrices(3, 4, 5, seed=1)
    found = svds(stack([MatrixOperator(a), MatrixOperator(b)]), 3)
    truth = torch.linalg.svdvals(torch.cat([a, b], dim=1))[:, :3]
    torch.testing.assert_close(found.s, truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dim", [2, -1, None, "0"])
def test_an_unknown_dimension_is_refused(dim):
    with pytest.raises(ArgumentError, match="must be 0, for more rows, or 1, for more columns"):
        stack([pair(2, 2)[0]], dim=dim)


@pytest.mark.parametrize("dim", [0, 1])
def test_nothing_to_stack_is_refused(dim):
    with pytest.raises(ArgumentError, match="at least one operator"):
        stack([], dim=dim)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("other", [torch.ones(2, 2), None, 3.0])
def test_what_is_no_operator_is_refused(other, dim):
    with pytest.raises(ArgumentError, match=f"not {type(other).__name__}"):
        stack([pair(2, 2)[0], other], dim=dim)


@pytest.mark.parametrize(
    ("shapes", "dim", "message"),
    [
        ([(3, 4), (3, 4), (3, 5)], 0, "operator 0 of shape 3 x 4 and operator 2 of shape 3 x 5"),
        ([(3, 4), (2, 4)], 1, "operator 0 of shape 3 x 4 and operator 1 of shape 2 x 4"),
        ([(6, 3, 4), (5, 3, 4)], 0, "operator 0 of shape 6 x 3 x 4 and operator 1"),
        ([(6, 3, 4), (3, 4)], 0, "operator 1 of shape 3 x 4"),
        ([(3, 4), (1, 3, 4)], 1, "operator 1 of shape 1 x 3 x 4"),
    ],
    ids=["columns", "rows", "batch", "a batch and a single one", "a single one and a batch"],
)
def test_operators_that_do_not_fit_are_named(shapes, dim, message):
    with pytest.raises(ArgumentError, match=message):
        stack([MatrixOperator(torch.ones(shape)) for shape in shapes], dim=dim)


class Elsewhere(LinearOperator):
    """An operator on a device that every machine has."""

    def _matmat(self, V):
        return V.new_zeros(self.shape[0], V.shape[1])

    def _rmatmat(self, U):
        return U.new_zeros(self.shape[1], U.shape[1])


@pytest.mark.parametrize("dim", [0, 1])
def test_dtypes_and_devices_do_not_mix(dim):
    A = MatrixOperator(torch.ones(2, 2))
    with pytest.raises(ArgumentError, match=r"float32.*float64.*convert one"):
        stack([A, MatrixOperator(torch.ones(2, 2).double())], dim=dim)
    with pytest.raises(ArgumentError, match=r"on cpu with one in .* on meta"):
        stack([A, Elsewhere((2, 2), torch.float32, "meta")], dim=dim)
