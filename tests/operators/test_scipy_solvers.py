"""SciPy's solvers and its operator algebra on our operators."""

import numpy as np
import pytest
import scipy.sparse.linalg as sla
import torch

from jvpsvd import JacobianOperator, as_scipy

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}


def square(dtype, n=24):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(n, 2 * n), torch.nn.Tanh(), torch.nn.Linear(2 * n, n)
    ).to(dtype)
    J = JacobianOperator(net, torch.randn(n, dtype=dtype))
    return J, (J @ torch.eye(n, dtype=dtype)).double().numpy()


# SciPy's lsmr begins from 1e100, whatever the dtype.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_solvers(dtype):
    J, dense = square(dtype)
    A, close = as_scipy(J), {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    s = np.linalg.svd(dense, compute_uv=False)
    found = sla.svds(A, k=4, return_singular_vectors=False)
    assert found.dtype == A.dtype
    np.testing.assert_allclose(np.sort(found)[::-1], s[:4], **close)
    values = sla.eigsh(as_scipy(J.T @ J), k=3, return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(values)[::-1], s[:3] ** 2, **close)
    b = np.ones(24, dtype=A.dtype)
    shifted = dense + 3 * np.eye(24)
    identity = sla.aslinearoperator(np.eye(24, dtype=A.dtype))
    for solve in (sla.lsqr, sla.lsmr):
        x = solve(A + 3 * identity, b, atol=1e-12, btol=1e-12)[0]
        np.testing.assert_allclose(x, np.linalg.solve(shifted, b), **close)
    one_norm = np.abs(dense).sum(0).max()  # never overestimated, and exact with t = n
    assert 0.3 * one_norm < sla.onenormest(A) < 1.001 * one_norm
    assert sla.onenormest(A, t=24) == pytest.approx(one_norm, rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_algebra(dtype):
    J, dense = square(dtype)
    A, block = as_scipy(J), np.random.default_rng(0).normal(size=(24, 3))
    for operator, expected in (
        (A + A, 2 * dense),
        (A @ A, dense @ dense),
        (0.5 * A - A, -0.5 * dense),
        (A**2, dense @ dense),
        (A.H, dense.T),
        (A.T @ A, dense.T @ dense),
    ):
        np.testing.assert_allclose(operator @ block, expected @ block, rtol=1e-3, atol=1e-4)
