"""SciPy's factorizations, least squares and operator signs on operators that are not square."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, as_scipy

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def jacobian(dtype, rows, columns):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(columns, 30), nn.Tanh(), nn.Linear(30, rows)).to(dtype)
    J = JacobianOperator(net, torch.linspace(-1, 1, columns, dtype=dtype))
    return J, (J @ torch.eye(columns, dtype=dtype)).numpy()


def tolerance(dtype, scale=1.0):
    return {"rtol": 0, "atol": TOLERANCE[dtype] * scale}


def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "columns"), [(9, 16), (16, 9)])
def test_arpack_finds_both_sides(dtype, rows, columns):
    J, matrix = jacobian(dtype, rows, columns)
    start = rng().standard_normal(9).astype(DTYPES[dtype])
    U, s, Vh = sla.svds(as_scipy(J), k=3, v0=start, solver="arpack")
    assert U.dtype == s.dtype == Vh.dtype == DTYPES[dtype]
    truth = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(s[::-1], truth[:3], **tolerance(dtype, truth[0]))
    np.testing.assert_allclose(matrix @ Vh.T, U * s, **tolerance(dtype, truth[0]))
    np.testing.assert_allclose(matrix.T @ U, Vh.T * s, **tolerance(dtype, truth[0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("made", ["ours", "scipy's"])
def test_eigsh_of_the_gram_operator(dtype, made):
    J, matrix = jacobian(dtype, 9, 16)
    gram = as_scipy(J.T @ J) if made == "ours" else as_scipy(J).H @ as_scipy(J)
    start = rng().standard_normal(16).astype(DTYPES[dtype])
    values, vectors = sla.eigsh(gram, k=3, v0=start)
    assert values.dtype == vectors.dtype == gram.dtype == DTYPES[dtype]
    truth = np.linalg.eigvalsh(matrix.T.astype(np.float64) @ matrix)[-3:]
    np.testing.assert_allclose(values, truth, **tolerance(dtype, truth[-1]))
    products = matrix.T @ (matrix @ vectors)
    np.testing.assert_allclose(products, vectors * values, **tolerance(dtype, truth[-1]))


# SciPy's lsmr begins from 1e100, whatever the dtype; it warns on a float32 array just the same.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("solve", [sla.lsqr, sla.lsmr])
@pytest.mark.parametrize(("rows", "columns"), [(16, 9), (9, 16)], ids=["least squares", "shortest"])
def test_least_squares(dtype, solve, rows, columns):
    J, matrix = jacobian(dtype, rows, columns)
    b = rng().standard_normal(rows).astype(DTYPES[dtype])
    truth = np.linalg.pinv(matrix.astype(np.float64)) @ b
    stop = 1e-6 if dtype == torch.float32 else 1e-13
    steps = {"maxiter" if solve is sla.lsmr else "iter_lim": 100}  # by default too few in float32
    x = solve(as_scipy(J), b, atol=stop, btol=stop, conlim=0, **steps)[0]
    np.testing.assert_allclose(x, truth, **tolerance(dtype, 20 * np.linalg.norm(truth)))
    damped = solve(as_scipy(J), b, damp=0.5, atol=stop, btol=stop, conlim=0)[0]
    normal = matrix.T.astype(np.float64) @ matrix + 0.25 * np.eye(columns)
    np.testing.assert_allclose(
        damped, np.linalg.solve(normal, matrix.T @ b), **tolerance(dtype, 20)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_conjugate_gradients_on_the_gram_operator(dtype):
    J, matrix = jacobian(dtype, 9, 16)
    A = as_scipy(J @ J.T)
    b = rng().standard_normal(9).astype(DTYPES[dtype])
    x, failed = sla.cg(A, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, maxiter=500)
    assert failed == 0
    np.testing.assert_allclose(
        matrix @ (matrix.T @ x), b, rtol=0, atol=5e-5 if dtype == torch.float32 else 1e-10
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_estimates(dtype):
    J, matrix = jacobian(dtype, 9, 9)
    S = as_scipy(J)
    for A, truth in ((S, matrix), (S.H, matrix.T), (S @ S, matrix @ matrix)):
        norm = np.abs(truth).sum(0).max()
        assert sla.onenormest(A, t=9) == pytest.approx(norm, rel=TOLERANCE[dtype])
    powers = np.abs(np.linalg.matrix_power(matrix.astype(np.float64), 3)).sum(0).max()
    assert sla.onenormest(S**3, t=9) == pytest.approx(powers, rel=10 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_of_an_operator_times_a_block(dtype):
    J, matrix = jacobian(dtype, 9, 9)
    V = rng().standard_normal((9, 2)).astype(DTYPES[dtype])
    values, vectors = np.linalg.eig(matrix.astype(np.float64))
    truth = (vectors * np.exp(values)) @ np.linalg.solve(vectors, V.astype(complex))
    found = sla.expm_multiply(as_scipy(J), V, traceA=float(np.trace(matrix)))
    np.testing.assert_allclose(found, truth.real, **tolerance(dtype, 10))


@pytest.mark.parametrize("dtype", DTYPES)
def test_signs_keep_the_dtype_and_are_the_dense_ones(dtype):
    J, matrix = jacobian(dtype, 9, 9)
    torch.manual_seed(1)
    other = torch.randn(9, 9, dtype=dtype)
    A, B, b = as_scipy(J), as_scipy(MatrixOperator(other)), other.numpy()
    V = rng().standard_normal((9, 3)).astype(DTYPES[dtype])
    for operator, truth in (
        (A + B, matrix + b),
        (A @ B, matrix @ b),
        (A * B, matrix @ b),
        (A**2, matrix @ matrix),
        (A**0, np.eye(9)),
        ((A @ B).H, (matrix @ b).T),
        ((A + B).T, (matrix + b).T),
        (A.H.H, matrix),
        (A.T.T, matrix),
    ):
        assert operator.dtype == DTYPES[dtype]
        assert operator.shape == (9, 9)
        product = operator @ V
        assert product.dtype == DTYPES[dtype]
        np.testing.assert_allclose(product, truth @ V, **tolerance(dtype, 50))
        np.testing.assert_allclose(operator @ V[:, 0], truth @ V[:, 0], **tolerance(dtype, 50))
        np.testing.assert_allclose(operator.rmatmat(V), truth.T @ V, **tolerance(dtype, 50))
    for scaled in (2 * A, A * 2, np.float32(2) * A, A - (-A)):  # SciPy's dtype here is float64
        product = scaled @ V
        np.testing.assert_allclose(product, 2 * matrix @ V, **tolerance(dtype, 50))
        np.testing.assert_allclose(scaled.H @ V, 2 * matrix.T @ V, **tolerance(dtype, 50))


def test_a_gram_operator_applied_by_scipy_is_counted_on_ours():
    J, _ = jacobian(torch.float32, 9, 16)
    before = J.products
    (as_scipy(J).H @ as_scipy(J)) @ np.ones((16, 3), dtype=np.float32)
    assert J.products.since(before) == (3, 3)
