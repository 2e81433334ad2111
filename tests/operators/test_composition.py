"""Sums, products, multiples and transposes of operators."""

import numpy as np
import pytest
import torch
from support.agreement import compare as check
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator
from jvpsvd.errors import ArgumentError, OperandError

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
        lambda A, B: A - B,
        lambda A, B: B.T @ A,
    ],
    ids=["sum", "difference", "product"],
)
def test_dtypes_do_not_mix(combine):
    A, B = pair(3, 4, torch.float32, 0)[0], pair(3, 4, torch.float64, 1)[0]
    with pytest.raises(ArgumentError, match=r"float(32|64).*float(32|64).*convert one"):
        combine(A, B)


def test_shapes_must_fit():
    A, B = pair(3, 4, torch.float32, 0)[0], pair(2, 5, torch.float32, 1)[0]
    with pytest.raises(ArgumentError, match="cannot add 3 x 4 and 2 x 5"):
        A + B
    with pytest.raises(ArgumentError, match="cannot subtract 3 x 4 and 2 x 5"):
        A - B
    with pytest.raises(ArgumentError, match="cannot compose 3 x 4 with 2 x 5"):
        A @ B


@pytest.mark.parametrize("scalar", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_scalar_that_is_not_finite_is_refused(scalar):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match="finite"):
        scalar * A
    with pytest.raises(ArgumentError, match="finite"):
        A / scalar


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, np.float32(0), np.int64(0), False])
def test_dividing_by_zero_is_refused(zero):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match=r"cannot divide an operator by 0; give a number"):
        A / zero


@pytest.mark.parametrize("other", [1j, "2", torch.tensor(2.0), np.ones(4), None])
def test_multiplying_by_what_is_no_real_number_is_a_type_error(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError, match="an operator cannot be scaled by") as caught:
        A * other
    assert isinstance(caught.value, OperandError)
    with pytest.raises(OperandError):
        other * A


@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda A: 1j * A, r"scaled by 1j; operators are real: scale by the real"),
        (lambda A: A * A, r"write A @ B"),
        (lambda A: torch.tensor(2.0) * A, r"c\.item\(\)"),
        (lambda A: 1 - A, r"1 cannot be added .*nor subtracted"),
        (lambda A: A - 1, r"1 cannot be added .*nor subtracted"),
        (lambda A: A - torch.ones(3, 4), r"aslinearoperator"),
        (lambda A: A / A, r"none has an inverse"),
        (lambda A: A / 1j, r"divided by 1j; operators are real"),
        (lambda A: A / torch.ones(4), r"divided by a tensor of shape \(4,\); give a number"),
        (lambda A: 2 / A, r"has no inverse"),
        (lambda A: A**2, r"write A @ A"),
        (lambda A: A + 1, r"1 cannot be added .*c \* MatrixOperator\(torch\.eye\(n\)\)"),
        (lambda A: sum([A, A]), r"write sum\(operators\[1:\], operators\[0\]\)"),
        (lambda A: A + torch.ones(3, 4), r"aslinearoperator"),
        (lambda A: A @ "x", r"not str; give a tensor"),
        (lambda A: A @ 2, r"write c \* A"),
        (lambda A: A @ np.float64(2), r"write c \* A"),
        (lambda A: np.ones(3) @ A, r"write A\.T @ v"),
        (lambda A: torch.ones(3) @ A, r"write A\.T @ v"),
    ],
)
def test_a_sign_that_an_operator_lacks_says_what_to_write(take, message):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(OperandError, match=message) as caught:
        take(A)
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)


def test_a_whole_number_that_no_float_holds_is_not_finite():
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match="finite"):
        10**400 * A


@pytest.mark.parametrize("other", [2, torch.ones(3, 4), np.ones((3, 4))])
def test_adding_what_is_no_operator_is_a_type_error(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError):
        A + other
    with pytest.raises(TypeError):
        other + A


@pytest.mark.parametrize("other", [[1.0] * 4, "V", 2.0])
def test_multiplying_what_is_no_tensor_is_refused_by_name(other):
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(ArgumentError, match=f"not {type(other).__name__}"):
        A @ other


def test_an_array_times_an_operator_is_a_type_error():
    A, _ = pair(3, 4, torch.float32, 0)
    with pytest.raises(TypeError):
        np.ones((2, 3), dtype=np.float32) @ A
