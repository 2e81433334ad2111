import pytest
import torch

from jvpsvd import MatrixOperator
from jvpsvd.errors import NonFiniteError
from jvpsvd.svd.kernels.norms import column_norms, rough_column_norms
from jvpsvd.svd.product_checks import largest_product_norm

BOTH = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1e-13, 1e-11, 1.0, 1e18, 1e20, 1e35])
@pytest.mark.parametrize("shape", [(70_000, 3), (4, 3000, 2)])
def test_squares_that_are_no_float32_numbers_are_summed_in_float64(shape, scale, dtype):
    W = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype) * scale
    A = MatrixOperator(torch.ones(*shape[:-1], 5, dtype=dtype))
    expected = torch.linalg.vector_norm(W.double() / scale, dim=-2).amax(-1)
    found = largest_product_norm(A, W, "forward", "here")
    assert found.dtype == torch.float64
    torch.testing.assert_close(found / scale, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("length", [1, 1 << 14, (1 << 14) + 1, 3_000_000])
def test_long_columns_of_equal_numbers_do_not_lose_their_length(length):
    for block in (torch.full((2, length), 0.37).T, torch.full((length, 2), 0.37)):
        found = rough_column_norms(block)
        torch.testing.assert_close(found, column_norms(block), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", BOTH)
def test_products_of_nothing_have_no_length(dtype):
    A = MatrixOperator(torch.zeros(6, 5, dtype=dtype))
    assert largest_product_norm(A, torch.zeros(6, 2, dtype=dtype), "forward", "here") == 0


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_number_is_found_among_any(value, scale, dtype):
    W = torch.full((3, 500, 4), scale, dtype=dtype)
    W[1, 30, 2] = value
    A = MatrixOperator(torch.ones(3, 500, 5, dtype=dtype))
    with pytest.raises(NonFiniteError, match="operator 1 of 3"):
        largest_product_norm(A, W, "reverse", "here")
