"""Golub–Kahan without U: the same B, F and R, from products with A'A."""

import pytest
import torch
from support.svd_problems import line, spectrum, with_values

from jvpsvd import MatrixOperator
from jvpsvd.errors import NonFiniteError
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.lanczos import LanczosFactorization
from jvpsvd.svd.krylov.retry import RetryWith
from jvpsvd.svd.krylov.ritz import ritz_triplets

EPS = torch.finfo(torch.float64).eps
SHAPES = ((40, 33), (90, 60), (61, 61))
SPECTRA = ("line", "two clusters", "equal")


def begin(matrix, block_size=4, **options):
    A = MatrixOperator(matrix)
    return LanczosFactorization(A, block_size=block_size, seed=0, capacity=2, **options)


def assert_invariants(state, A):
    V, B, F, R = state.V, state.B, state.F, state.R
    slack = 100 * EPS * float(torch.linalg.matrix_norm(A, 2)) ** 2
    assert (A.T @ (A @ V) - V @ (B.T @ B) - F @ (R @ B)).abs().max() <= slack
    both = torch.cat([V, F], dim=1)
    eye = torch.eye(both.shape[1], dtype=torch.float64)
    assert (both.T @ both - eye).abs().max() <= 100 * EPS
    assert V.shape[1] == state.size == R.shape[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("block_size", [1, 2, 5])
def test_invariants_hold_at_every_step_before_the_last(name, shape, block_size):
    values = spectrum(name, shape[1]).double().clamp_min(1e-3)
    matrix = with_values(values, *shape)
    state = begin(matrix, block_size)
    state.initialize()
    while state.size + state.F.shape[1] < shape[1]:
        assert_invariants(state, matrix)
        state.expand()
    with pytest.raises(RetryWith) as again:  # all values are known to rounding only with U
        state.expand()
    assert again.value.forms_left


@pytest.mark.parametrize("shape", SHAPES)
def test_golub_kahan_has_the_same_values_after_the_same_products(shape):
    matrix = with_values(line(1, 0.2, shape[1]), *shape)
    A, other = MatrixOperator(matrix), MatrixOperator(matrix)
    state = LanczosFactorization(A, block_size=3, seed=1, capacity=30)
    whole = GolubKahanFactorization(other, block_size=3, seed=1, capacity=30)
    for bases in (state, whole):
        bases.initialize()
        for _ in range(4):
            bases.expand()
        bases.add_probe_columns(2)
        bases.expand()
    assert A.products == other.products
    assert torch.allclose(torch.linalg.svdvals(state.B), torch.linalg.svdvals(whole.B), atol=1e-13)
    one, two = (ritz_triplets(bases, 6) for bases in (state, whole))
    assert torch.allclose(one.estimates, two.estimates, atol=1e-13)


@pytest.mark.parametrize("block_size", [1, 2, 4])
def test_restarts_keep_the_invariants(block_size):
    matrix = with_values(line(1, 0.01, 120), 150, 120)
    state = begin(matrix, block_size)
    state.initialize()
    for _ in range(12):
        while state.size < 40:
            state.expand()
        state.restart(ritz_triplets(state, 20))
        assert state.size == 20
        assert_invariants(state, matrix)
    state.add_probe_columns(3)
    state.expand()
    assert_invariants(state, matrix)


@pytest.mark.parametrize("keep_left", [True, False])
@pytest.mark.parametrize("scale", [1e-130, 1.0, 1e130])
def test_measured_triplets_are_those_of_the_matrix(scale, keep_left):
    matrix = scale * with_values(torch.cat([line(1, 0.5, 5), line(0.1, 0.01, 45)]), 70, 50)
    state = begin(matrix, keep_left=keep_left)
    state.initialize()
    while state.size < 36:
        state.expand()
    s, residuals, U, V = state.measure(ritz_triplets(state, 5))
    truth = torch.linalg.svdvals(matrix / scale)[:5]
    assert (s / scale - truth).abs().max() < 1e-10
    assert (residuals / scale).max() < 1e-6
    assert V.shape == (50, 5)
    if not keep_left:
        assert U is None
        return
    forward = (matrix / scale) @ V - U * (s / scale)
    adjoint = (matrix / scale).T @ U - V * (s / scale)
    worst = torch.maximum(forward.norm(dim=0), adjoint.norm(dim=0))
    assert torch.allclose(residuals / scale, worst, rtol=1e-3, atol=1e-14)
    assert (U.T @ U - torch.eye(5)).abs().max() < 1e-13


@pytest.mark.parametrize("small", [0.0, 1e-12, 1e-9, 1e-7])
@pytest.mark.parametrize("place", [0, 5])
def test_a_value_that_rounding_hides_begins_again_with_u(small, place):
    """The start holds the vector of the small value, so that B soon has that value."""
    values = line(1, 0.5, 40).double()
    values[-1] = small
    bases = begin(torch.diag(values), block_size=2)
    start = torch.zeros(40, 2, dtype=torch.float64)
    start[39, 0] = start[place, 1] = 1
    bases.F, bases.R = start, torch.zeros(2, 0, dtype=torch.float64)

    def expand_to_the_end():
        while not bases.exhausted:
            bases.expand()

    with pytest.raises(RetryWith) as again:
        expand_to_the_end()
    assert again.value.forms_left


def test_products_that_are_not_finite_are_named():
    matrix = with_values(line(1, 0.1, 20), 30, 20)
    matrix[3, 4] = torch.nan
    with pytest.raises(NonFiniteError, match="holds NaN or infinity"):
        begin(matrix).initialize()
