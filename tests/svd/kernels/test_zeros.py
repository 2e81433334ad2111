"""Coefficients that have no effect become 0, since processors multiply subnormal numbers slowly."""

import pytest
import torch

from jvpsvd.operators import MatrixOperator
from jvpsvd.svd.kernels.columns import GrowingColumns
from jvpsvd.svd.kernels.orthogonalize import linear_combination
from jvpsvd.svd.kernels.zeros import convert_coefficients

DTYPES = (torch.float32, torch.float64)


def graded(rows, count, dtype):
    """Return orthonormal columns whose entries decay below the smallest number of the dtype."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randn(rows, count, dtype=torch.float64, generator=generator).sign()
    steps = torch.linspace(0, 1.2, rows, dtype=torch.float64)
    smallest = torch.finfo(dtype).tiny if dtype == torch.float32 else 1e-300
    return signs * smallest ** steps[:, None]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_no_subnormal_number_is_left_and_nothing_that_counts_is_lost(scale):
    dtype = torch.float32
    C = scale * graded(60, 5, dtype)
    found = convert_coefficients(C, torch.empty(0, dtype=dtype))
    limits = torch.finfo(dtype)
    kept = found != 0
    assert found.dtype == dtype
    assert (found[kept].abs().double() >= limits.tiny / limits.eps * C.abs().max()).all()
    assert torch.equal(found[kept], C.to(dtype)[kept])
    assert (C[~kept].abs() < 1e-30 * C.abs().max()).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_combinations_are_the_same(dtype):
    generator = torch.Generator().manual_seed(1)
    basis = torch.randn(60, 500, dtype=dtype, generator=generator).T
    C = graded(60, 4, dtype)
    wanted = basis @ C.to(dtype)
    assert torch.allclose(linear_combination(basis, C), wanted, rtol=0, atol=1e-5)
    columns = GrowingColumns(500, 60, 60, MatrixOperator(torch.empty(500, 500, dtype=dtype)))
    columns.append(basis)
    columns.combine(C)
    assert torch.allclose(columns.block, wanted, rtol=0, atol=1e-5)


def test_float64_stays_as_it_is():
    C = graded(60, 5, torch.float64)
    assert torch.equal(convert_coefficients(C, torch.empty(0, dtype=torch.float64)), C)


def test_all_zeros_and_none_stay():
    basis = torch.empty(0)
    assert torch.equal(convert_coefficients(torch.zeros(3, 2), basis), torch.zeros(3, 2))
    for shape in ((0, 2), (3, 0), (2, 0, 1)):
        assert convert_coefficients(torch.zeros(shape), basis).shape == shape


def test_each_matrix_of_a_batch_has_its_own_measure():
    C = torch.stack([torch.eye(2), 1e-35 * torch.eye(2)]).double()
    assert (convert_coefficients(C, torch.empty(0))[1].diagonal() > 0).all()
