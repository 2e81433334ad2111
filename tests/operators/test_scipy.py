"""Operators handed to SciPy."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, as_scipy
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Products

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def network(dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 12), nn.Tanh(), nn.Linear(12, 7)).to(dtype)
    return JacobianOperator(net, torch.linspace(-1, 1, 9, dtype=dtype))


@pytest.fixture(params=DTYPES, ids=str)
def case(request):
    J = network(request.param)
    return as_scipy(J), (J @ torch.eye(9, dtype=J.dtype)).numpy(), J


def test_the_declared_dtype_is_the_true_one(case):
    S, matrix, J = case
    assert S.dtype == DTYPES[J.dtype] == matrix.dtype
    assert S.shape == (7, 9)
    for product in (
        S.matvec(np.ones(9, dtype=S.dtype)),
        S.rmatvec(np.ones(7, dtype=S.dtype)),
        S.matmat(np.ones((9, 2), dtype=S.dtype)),
        S.rmatmat(np.ones((7, 2), dtype=S.dtype)),
    ):
        assert product.dtype == S.dtype


# Of columns only until SciPy 1.20.
@pytest.mark.filterwarnings("ignore:Calling `r?matvec` on 'column vectors':FutureWarning")
def test_every_product_and_the_adjoint(case):
    S, matrix, J = case
    rng = np.random.default_rng(0)
    v, u = rng.standard_normal(9).astype(S.dtype), rng.standard_normal(7).astype(S.dtype)
    V = rng.standard_normal((9, 3)).astype(S.dtype)
    U = rng.standard_normal((7, 3)).astype(S.dtype)
    tolerance = {"rtol": 0, "atol": TOLERANCE[J.dtype]}
    np.testing.assert_allclose(S.matvec(v), matrix @ v, **tolerance)
    np.testing.assert_allclose(S.matvec(v[:, None]), (matrix @ v)[:, None], **tolerance)
    np.testing.assert_allclose(S.rmatvec(u), matrix.T @ u, **tolerance)
    np.testing.assert_allclose(S.rmatvec(u[:, None]), (matrix.T @ u)[:, None], **tolerance)
    np.testing.assert_allclose(S.matmat(V), matrix @ V, **tolerance)
    np.testing.assert_allclose(S.rmatmat(U), matrix.T @ U, **tolerance)
    for adjoint in (S.H, S.T, S.adjoint(), S.transpose()):
        np.testing.assert_allclose(adjoint @ U, matrix.T @ U, **tolerance)
        np.testing.assert_allclose(adjoint.rmatmat(V), matrix @ V, **tolerance)


def test_scipys_own_algebra(case):
    S, matrix, J = case
    V = np.random.default_rng(0).standard_normal((9, 3)).astype(S.dtype)
    tolerance = {"rtol": 0, "atol": 20 * TOLERANCE[J.dtype]}
    np.testing.assert_allclose((S.H @ S) @ V, matrix.T @ matrix @ V, **tolerance)
    np.testing.assert_allclose((S + 2 * S) @ V, 3 * matrix @ V, **tolerance)
    np.testing.assert_allclose((-S) @ V, -matrix @ V, **tolerance)


def test_the_products_are_counted_on_the_operator():
    J = network(torch.float32)
    S = as_scipy(J)
    S.matmat(np.ones((9, 3), dtype=np.float32))
    S.matvec(np.ones(9, dtype=np.float32))
    S.rmatvec(np.ones(7, dtype=np.float32))
    assert J.products == Products(4, 1)


def test_svds_of_scipy_finds_the_leading_triplets(case):
    S, matrix, J = case
    start = np.random.default_rng(0).standard_normal(7).astype(S.dtype)
    U, s, Vh = sla.svds(S, k=2, v0=start)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[:2]
    tolerance = 1e-5 if J.dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(s[::-1], expected, rtol=tolerance)
    np.testing.assert_allclose(matrix @ Vh.T, U * s, atol=10 * tolerance * s.max())


@pytest.mark.parametrize(
    "block",
    [
        np.arange(12.0).reshape(3, 4)[:, ::-1],
        np.arange(12.0).reshape(4, 3).T,
        np.arange(24.0).reshape(6, 4)[::-2],
        np.arange(12).reshape(3, 4),
        np.arange(12.0, dtype=">f8").reshape(3, 4),
        np.ones((3, 0)),
    ],
    ids=["reversed", "transposed", "strided", "integers", "other byte order", "no columns"],
)
def test_arrays_of_any_layout_are_converted_on_entry(block):
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    S = as_scipy(MatrixOperator(torch.from_numpy(matrix)))
    np.testing.assert_allclose(S @ block, matrix @ block)
    assert (S @ block).dtype == np.float32


def test_read_only_arrays_are_accepted_and_left_alone():
    S = as_scipy(MatrixOperator(torch.eye(3)))
    v = np.ones(3, dtype=np.float32)
    v.flags.writeable = False
    out = S @ v
    out[:] = 7
    assert v.tolist() == [1, 1, 1]


def test_complex_vectors_are_refused_rather_than_cut_to_their_real_part():
    S = as_scipy(MatrixOperator(torch.eye(3)))
    with pytest.raises(ArgumentError, match="operator is real"):
        S @ np.array([1j, 0, 0])
    with pytest.raises(ArgumentError, match="operator is real"):
        S.H @ np.array([1j, 0, 0])


def test_bfloat16_which_numpy_lacks_is_refused():
    with pytest.raises(ArgumentError, match="no bfloat16"):
        as_scipy(MatrixOperator(torch.eye(3, dtype=torch.bfloat16)))


def test_masked_entries_that_scipy_hands_on_are_refused(case):
    S, _, _ = case
    v = np.ma.masked_array(np.ones(9), [0, 1] + [0] * 7)
    for product in (lambda: S.matvec(v), lambda: S.matmat(v[:, None])):
        with pytest.raises(ArgumentError, match="right side has masked entries"):
            product()
