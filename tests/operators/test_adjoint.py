"""<J v, u> = <v, J' u>, and a block is its columns, for matrices, networks and compositions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, as_scipy, aslinearoperator


def matrix(dtype):
    generator = torch.Generator().manual_seed(3)
    return MatrixOperator(torch.randn(5, 4, generator=generator, dtype=dtype))


def network(dtype, derivatives="trace"):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(6, 5)).to(dtype)
    x = torch.linspace(-1, 1, 8, dtype=dtype).reshape(1, 2, 4)
    return JacobianOperator(net, x, derivatives=derivatives, chunk=3)


OPERATORS = {
    "matrix": matrix,
    "transposed": lambda dtype: matrix(dtype).T,
    "trace": network,
    "transforms": lambda dtype: network(dtype, "transforms"),
    "composed": lambda dtype: matrix(dtype).T @ network(dtype),
    "sum": lambda dtype: 0.5 * network(dtype) + network(dtype, "transforms"),
    "through scipy": lambda dtype: aslinearoperator(as_scipy(network(dtype))),
}
CASES = {
    (name, dtype): build(dtype)
    for name, build in OPERATORS.items()
    for dtype in (torch.float32, torch.float64)
}
IDS = [f"{name}-{dtype}" for name, dtype in CASES]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


def block(rows, width, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize("case", CASES, ids=IDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(1, 7))
def test_reverse_is_the_adjoint_of_forward(case, seed, width):
    A = CASES[case]
    m, n = A.shape
    V, U = block(n, width, seed, A.dtype), block(m, width, seed + 1, A.dtype)
    AV, AU = A.matmat(V), A.rmatmat(U)
    scale = max(AV.norm() * U.norm(), V.norm() * AU.norm())
    assert ((AV.T @ U) - (V.T @ AU)).abs().max() <= TOLERANCE[A.dtype] * scale
    assert AV.abs().max() > 0


@pytest.mark.parametrize("case", CASES, ids=IDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(1, 7))
def test_a_block_is_its_columns_one_at_a_time(case, seed, width):
    A = CASES[case]
    m, n = A.shape
    for rows, many, one in ((n, A.matmat, A.matvec), (m, A.rmatmat, A.rmatvec)):
        V = block(rows, width, seed, A.dtype)
        together = many(V)
        apart = torch.stack([one(v) for v in V.T], dim=1)
        assert together.shape == apart.shape
        assert (together - apart).abs().max() <= TOLERANCE[A.dtype] * apart.abs().max()


@pytest.mark.parametrize("case", CASES, ids=IDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), a=st.floats(-8, 8), b=st.floats(-8, 8))
def test_products_are_linear(case, seed, a, b):
    A = CASES[case]
    V, W = block(A.shape[1], 2, seed, A.dtype), block(A.shape[1], 2, seed + 1, A.dtype)
    AV, AW = A.matmat(V), A.matmat(W)
    bound = TOLERANCE[A.dtype] * (1 + abs(a) + abs(b)) * (AV.norm() + AW.norm())
    assert (A.matmat(a * V + b * W) - (a * AV + b * AW)).abs().max() <= bound
