"""Batches of matrices: their products, sums, transposes and selections."""

import pytest
import torch
from support.batch_problems import DTYPES, check, matrices, split

from jvpsvd import JacobianOperator, MatrixOperator, aslinearoperator
from jvpsvd.operators import Products, columns


def test_a_selection_multiplies_the_selected_only():
    seen = []

    class Counting(MatrixOperator):
        def _matmat(self, V):
            seen.append(V.shape[0])
            return super()._matmat(V)

        def _select(self, index):
            return Counting(self.matrix[index])

    A = Counting(matrices(5, 3, 2))
    for whole in (A, A.T.T, 2 * A, A + A, (A.T @ A).T):
        whole.select([1, 3]).matmat(torch.ones(whole.shape[-1], 1, dtype=A.dtype))
    assert set(seen) == {2}


def test_the_selection_of_a_composition_counts_on_it_and_on_all_parts():
    A, B = MatrixOperator(matrices(4, 3, 2)), MatrixOperator(matrices(4, 2, 5, seed=1))
    C = 2 * (A @ B).T
    C.select([0, 3]).matmat(torch.ones(3, 7, dtype=A.dtype))
    assert C.products == Products(14, 0)
    assert A.products == B.products == Products(0, 14)


def test_a_selection_does_not_keep_the_whole_in_memory():
    A = MatrixOperator(matrices(4, 3, 2))
    chosen = A.select([0])
    storage = A.matrix.untyped_storage().data_ptr()
    assert chosen.matrix.untyped_storage().data_ptr() != storage
    assert not any(value is A for value in vars(chosen).values())


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_with_matrices(dtype):
    A = matrices(4, 3, 2, dtype)
    check(MatrixOperator(A), split(A))
    check(MatrixOperator(A).T, split(A.mT))
    check(aslinearoperator(A), split(A))
    check(aslinearoperator(A.numpy()), split(A))
    assert repr(MatrixOperator(A)) == f"<MatrixOperator 4 x 3 x 2, {dtype}, cpu>"


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_product_and_multiple(dtype):
    a, b, c = matrices(4, 3, 2, dtype), matrices(4, 3, 2, dtype, 1), matrices(4, 2, 5, dtype, 2)
    A, B, C = MatrixOperator(a), MatrixOperator(b), MatrixOperator(c)
    check(A + B, split(a + b))
    check(A @ C, split(a @ c))
    check(0.5 * A, split(0.5 * a))
    check(((A + B) @ C).T, split(((a + b) @ c).mT))
    check(((A + B) @ C).select([3, 0]), split(((a + b) @ c)[[3, 0]]))
    check((2 * A).T.select([1]), split(2 * a.mT[[1]]))
    assert A.T.T is A


def test_vectors():
    a = matrices(4, 3, 2)
    A = MatrixOperator(a)
    v, u = torch.randn(4, 2, dtype=a.dtype), torch.randn(4, 3, dtype=a.dtype)
    torch.testing.assert_close(A.matvec(v), torch.einsum("imn,in->im", a, v))
    torch.testing.assert_close(A.rmatvec(u), torch.einsum("imn,im->in", a, u))
    for product in (A.matvec, A.__matmul__):
        torch.testing.assert_close(product(v[0]), a @ v[0])
    torch.testing.assert_close(A.rmatvec(u[0]), a.mT @ u[0])
    torch.testing.assert_close(A @ v[..., None], a @ v[..., None])


@pytest.mark.parametrize(
    "build",
    [
        lambda: MatrixOperator(torch.ones(4, 3, 2)),
        lambda: JacobianOperator(lambda x: x.sum() * torch.ones(3), torch.ones(4, 2), batch_dims=1),
    ],
    ids=["matrix", "jacobian"],
)
def test_every_vector_of_every_matrix_is_counted(build):
    A = build()
    A @ torch.ones(4, 2, 5)
    A @ torch.ones(2, 5)
    A @ torch.ones(2)
    A.rmatmat(torch.ones(4, 3, 1))
    A.rmatvec(torch.ones(3))
    assert A.matmat(torch.ones(2, 0)).shape == (4, 3, 0)
    assert A.products == Products(4 * (5 + 5 + 1), 4 * (1 + 1))


def test_one_block_for_all_is_not_copied():
    seen = []

    class Counted(MatrixOperator):
        def _matmat(self, V):
            seen.append(V)
            return super()._matmat(V)

    A, V = Counted(matrices(4, 3, 2)), columns(torch.ones(2, 5, dtype=torch.float64))
    A.matmat(V)
    (2 * A).matmat(V)
    assert [v.data_ptr() for v in seen] == [V.data_ptr()] * 2
    assert all(v.shape == (4, 2, 5) for v in seen)


@pytest.mark.parametrize("shape", [(3, 2), (5, 3, 2), (1, 4, 3, 2)])
def test_columns_of_any_leading_dimensions(shape):
    block = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    out = columns(block)
    assert out.equal(block)
    assert out.stride()[-2:] == (1, 3)
    assert columns(out).data_ptr() == out.data_ptr()
