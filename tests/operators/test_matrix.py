"""A matrix in memory as an operator."""

import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.errors import ArgumentError

LAYOUTS = {
    "dense": lambda A: A,
    "transposed": lambda A: A.T.contiguous().T,
    "every other row": lambda A: A.repeat_interleave(2, 0)[::2],
    "coo": lambda A: A.to_sparse(),
    "csr": lambda A: A.to_sparse_csr(),
    "csc": lambda A: A.to_sparse_csc(),
}


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (4, 3), (2, 6)])
def test_products_of_every_layout(layout, dtype, shape):
    torch.manual_seed(0)
    m, n = shape
    matrix = torch.randn(shape, dtype=dtype)
    A = MatrixOperator(LAYOUTS[layout](matrix))
    V, U = torch.randn(n, 2, dtype=dtype), torch.randn(m, 2, dtype=dtype)
    assert A.shape == shape
    torch.testing.assert_close(A @ V, matrix @ V)
    torch.testing.assert_close(A.T @ U, matrix.T @ U)
    torch.testing.assert_close(A @ V[:, 0], matrix @ V[:, 0])
    torch.testing.assert_close(A.rmatvec(U[:, 0]), matrix.T @ U[:, 0])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(3), "two-dimensional"),
        (torch.ones(1, 2, 3, 3), "two-dimensional"),
        (torch.ones(2, 3, 3).to_sparse(), "sparse shape"),
        (torch.ones(0, 3), "0 x 3 is empty"),
        (torch.ones(3, 0), "3 x 0 is empty"),
        (torch.ones(0, 3, 2), "0 x 3 x 2 is empty; the batch"),
        (torch.ones(3, 3, dtype=torch.int64), "not real floating point"),
        (torch.ones(3, 3, dtype=torch.complex64), "not real floating point"),
        (torch.ones(3, 3, dtype=torch.bool), "not real floating point"),
    ],
)
def test_what_is_no_real_matrix_is_refused(matrix, message):
    with pytest.raises(ArgumentError, match=message):
        MatrixOperator(matrix)


def test_a_parameter_is_taken_as_a_value():
    A = MatrixOperator(torch.nn.Parameter(torch.ones(2, 2)))
    for product in (A.matvec, A.rmatvec):
        assert not product(torch.ones(2)).requires_grad
        product(torch.ones(2, requires_grad=True)).sum().backward()
    assert A.matrix.grad is None


def test_the_matrix_is_not_copied():
    matrix = torch.eye(2)
    A = MatrixOperator(matrix)
    matrix[0, 0] = 5
    assert (A @ torch.ones(2)).tolist() == [5.0, 1.0]


def test_repr_says_shape_dtype_and_device():
    assert repr(MatrixOperator(torch.ones(2, 3)).T) == (
        "<TransposedOperator 3 x 2, torch.float32, cpu>"
    )
