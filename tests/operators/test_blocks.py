"""Blocks are column-major, their dtype is kept, and each vector is counted once."""

import pytest
import torch

from jvpsvd import JacobianOperator, MatrixOperator, as_scipy, aslinearoperator
from jvpsvd.operators import Products, columns

DTYPES = [torch.float32, torch.float64]


def jacobian(dtype):
    return JacobianOperator(lambda x: (x**2)[:3], torch.arange(1.0, 6.0, dtype=dtype))


OPERATORS = {
    "matrix": lambda dtype: MatrixOperator(torch.ones(3, 5, dtype=dtype)),
    "row-major transposed": lambda dtype: MatrixOperator(torch.ones(5, 3, dtype=dtype)).T,
    "jacobian": jacobian,
    "scaled": lambda dtype: 2 * jacobian(dtype),
    "sum": lambda dtype: jacobian(dtype) + MatrixOperator(torch.ones(3, 5, dtype=dtype)),
    "product": lambda dtype: MatrixOperator(torch.ones(3, 3, dtype=dtype)) @ jacobian(dtype),
    "foreign": lambda dtype: aslinearoperator(as_scipy(jacobian(dtype))),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("row_major", [True, False])
def test_products_are_column_major_and_of_the_operators_dtype(name, dtype, row_major):
    A = OPERATORS[name](dtype)
    for product, rows, result in ((A.matmat, 5, 3), (A.rmatmat, 3, 5)):
        block = torch.ones(rows, 4, dtype=dtype)
        out = product(block if row_major else columns(block))
        assert out.shape == (result, 4)
        assert out.stride() == (1, result)
        assert out.dtype == dtype
        assert out.device == A.device


@pytest.mark.parametrize("name", OPERATORS)
def test_products_do_not_share_memory_with_what_they_were_given(name):
    A = OPERATORS[name](torch.float64)
    V = columns(torch.ones(5, 2, dtype=torch.float64))
    first = A.matmat(V).clone()
    A.matmat(V).zero_()
    assert V.eq(1).all()
    assert A.matmat(V).equal(first)


@pytest.mark.parametrize("name", OPERATORS)
def test_each_vector_is_counted_once_in_its_direction(name):
    A = OPERATORS[name](torch.float32)
    A @ torch.ones(5, 4)
    A @ torch.ones(5)
    A.rmatmat(torch.ones(3, 2))
    A.rmatvec(torch.ones(3))
    A.matmat(torch.ones(5, 0))
    assert A.products == Products(5, 3)
    assert A.products.total == 8


def test_a_refused_block_is_not_counted():
    A = MatrixOperator(torch.ones(3, 5))
    with pytest.raises(ValueError, match="takes V of shape"):
        A.matmat(torch.ones(3, 4))
    assert A.products == Products(0, 0)


def test_compositions_count_on_their_parts():
    A, B = MatrixOperator(torch.ones(3, 5)), MatrixOperator(torch.ones(5, 2))
    (A @ B) @ torch.ones(2, 4)
    (A @ B).T @ torch.ones(3, 1)
    assert A.products == B.products == Products(4, 1)
    transposed = A.T
    transposed @ torch.ones(3, 2)
    assert A.products == Products(4, 3)
    assert transposed.products == Products(2, 0)


def test_counter_readings_subtract():
    assert Products(9, 4).since(Products(5, 1)) == Products(4, 3)


@pytest.mark.parametrize("block", [torch.ones(3, 2), torch.ones(2, 3).T, torch.ones(6, 2)[::2]])
def test_columns_keeps_values_and_copies_only_when_it_must(block):
    out = columns(block)
    assert out.equal(block)
    assert out.stride() == (1, 3)
    assert (out.data_ptr() == block.data_ptr()) == (block.stride() == (1, 3))
