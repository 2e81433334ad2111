"""J'J and JJ' of a network as operators."""

import pytest
import torch
from support.batch_problems import DTYPES, check, matrices, split
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.operators import Products

TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}
SIDES = {"J'J": lambda J: J.T @ J, "JJ'": lambda J: J @ J.T}


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 6)).to(dtype)


def points(dtype, count=3):
    return torch.randn(count, 8, dtype=dtype, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=DTYPES, ids=str)
def case(request, dense):
    net, x = network(request.param), points(request.param)[0]
    return JacobianOperator(net, x), dense(net, x)


@pytest.mark.parametrize("side", SIDES)
def test_it_is_symmetric_and_the_dense_one(side, case, eye):
    J, matrix = case
    gram, truth = SIDES[side](J), SIDES[side](matrix)
    assert gram.shape == truth.shape
    assert gram.dtype == truth.dtype
    both = eye(len(truth), J.dtype)
    torch.testing.assert_close(gram @ both, truth, **TOLERANCE[J.dtype])
    torch.testing.assert_close(gram.T @ both, gram @ both, **TOLERANCE[J.dtype])


@pytest.mark.parametrize("side", SIDES)
def test_it_is_positive(side, case):
    J, _ = case
    gram = SIDES[side](J)
    V = torch.randn(gram.shape[1], 20, dtype=J.dtype, generator=torch.Generator().manual_seed(2))
    forms = (V * (gram @ V)).sum(0)
    other = J if side == "J'J" else J.T
    torch.testing.assert_close(forms, (other @ V).square().sum(0), **TOLERANCE[J.dtype])
    assert (forms > 0).all()


@pytest.mark.parametrize("side", SIDES)
def test_its_values_are_the_squares(side, case):
    J, matrix = case
    gram, alone = svds(SIDES[side](J), 4), svds(J, 4)
    torch.testing.assert_close(gram.s, torch.linalg.svdvals(matrix)[:4] ** 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(gram.s, alone.s**2, rtol=1e-5, atol=0)
    vectors = alone.Vh.T if side == "J'J" else alone.U
    for found in (gram.U, gram.Vh.T):
        overlap = (found * vectors).sum(0).abs()
        torch.testing.assert_close(overlap, torch.ones_like(overlap), rtol=1e-4, atol=0)


def test_where_rows_are_fewer_the_rest_is_null(case):
    J, _ = case
    found = svds(J.T @ J, 8, method="exact", on_unconverged="ignore")
    assert (found.s[6:] <= 10 * torch.finfo(J.dtype).eps * found.s[0]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", SIDES)
def test_batches(side, dtype, dense):
    net, X = network(dtype), points(dtype)
    J = JacobianOperator(net, X, batch_dims=1)
    truth = torch.stack([SIDES[side](dense(net, x)) for x in X])
    gram = SIDES[side](J)
    check(gram, split(truth))
    check(gram.select([2, 0]), split(truth[[2, 0]]))
    found = svds(gram, 3)
    torch.testing.assert_close(found.s, torch.linalg.svdvals(truth)[:, :3], rtol=2e-5, atol=0)
    torch.testing.assert_close(found.s, svds(J, 3).s ** 2, rtol=2e-5, atol=0)


def test_a_product_is_one_of_each_direction():
    A = MatrixOperator(matrices(1, 4, 3)[0])
    gram = A.T @ A
    gram @ torch.ones(3, 5, dtype=A.dtype)
    gram.T @ torch.ones(3, 2, dtype=A.dtype)
    assert gram.products == Products(5, 2)
    assert A.products == Products(7, 7)
