"""Sums, products, multiples and transposes of operators."""

import numpy as np
import pytest
import torch
from agreement import compare as check
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator
from jvpsvd.errors import ArgumentError

DTYPES = [torch.float32, torch.float64]


def pair(m, n, dtype, seed):
    matrix = torch.randn(m, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return MatrixOperator(matrix), matrix


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_product_and_transpose(dtype):
    (A, a), (B, b), (C, c) = pair(3, 4, dtype, 0), pair(3, 4, dtype, 1), pair(4, 2, dtype, 2)
    check(A + B, a + b)
    check(A @ C, a @ c)
    check((A + B) @ C, (a + b) @ c)
    check((A @ C).T, (a @ c).T)
    check(A.T @ B, a.T @ b)
    check(A + A, 2 * a)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "scalar",
    [3, -0.5, 0, True, np.float64(0.25), np.float32(1.5), np.int64(2)],
    ids=lambda scalar: f"{type(scalar).__name__}={scalar}",
)
def test_scalars_of_every_kind_keep_the_dtype(scalar, dtype):
    A, a = pair(3, 4, dtype, 0)
    check(scalar * A, float(scalar) * a)
    check(A * scalar, float(scalar) * a)


def test_transposing_twice_gives_the_operator_itself():
    A, _ = pair(3, 4, torch.float32, 0)
    assert A.T.T is A
    assert A.T.shape == (4, 3)


def test_composed_jacobians_obey_the_chain_rule(dense):
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double()
    second = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()).double()
    x = torch.randn(5, dtype=torch.float64)
    z = first(x).detach()
    chain = JacobianOperator(second, z) @ JacobianOperator(first, x)
    check(chain, dense(nn.Sequential(first, second), x))


@pytest.mark.parametrize(
    "combine",
    [
        lambda A, B: A + B,
        lambda A, B: B.T @ A,
    ],
    ids=["sum", "product"],
)
def test_dtypes_do_not_mix(combine):
    A, B = pair(3, 4, torch.float32, 0)[0], pair(3, 4, torch.float64, 1)[0]
    with pytest.raises(ArgumentError, match=r"float(32|64).*float(32|64).*convert one"):
        combine(A, B)


def test_shapes_must_fit():
    A, B = pair(3, 4, torch.float32, 0)[0], pair(2, 5, torch.float32, 1)[0]
    with pytest.raises(ArgumentError, match="cannot add 3 x 4 and 2 x 5"):
        A + B
    with pytest.raises(ArgumentError, match="cannot compose 3 x 4 with 2 x 5"):
        A @ B


@pytest.mark.parametrize("scalar", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_scalar_that_is_not_finite_is_refused(scalar):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match="finite"):
        scalar * A


@pytest.mark.parametrize("other", [1j, "2", torch.tensor(2.0), np.ones(4), None])
def test_multiplying_by_what_is_no_real_number_is_a_type_error(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError):
        A * other
    with pytest.raises(TypeError):
        other * A


@pytest.mark.parametrize("other", [2, torch.ones(3, 4), np.ones((3, 4))])
def test_adding_what_is_no_operator_is_a_type_error(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError):
        A + other
    with pytest.raises(TypeError):
        other + A


@pytest.mark.parametrize("other", [[1.0] * 4, np.ones(4, dtype=np.float32), 2.0])
def test_multiplying_what_is_no_tensor_is_refused_by_name(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match=f"not {type(other).__name__}"):
        A @ other


def test_an_array_times_an_operator_is_a_type_error():
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError):
        np.ones((2, 3), dtype=np.float32) @ A
