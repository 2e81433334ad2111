import pytest
import torch
from support.svd_problems import Diagonal, line, repeat, spectrum, with_values

from jvpsvd import MatrixOperator
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.ritz import ritz_triplets

DTYPES = (torch.float32, torch.float64)
SHAPES = ((1, 1), (9, 1), (5, 3), (40, 33), (90, 60))


def start(matrix, dtype, block_size=4, seed=0):
    A = MatrixOperator(matrix.to(dtype))
    return A, GolubKahanFactorization(A, block_size=block_size, seed=seed, capacity=2)


def assert_invariants(state, matrix, dtype):
    A = matrix.to(dtype).double()
    V, U, F = state.V.double(), state.left.U.double(), state.F.double()
    eye = torch.eye(state.size, dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    slack = 100 * eps * max(float(torch.linalg.matrix_norm(A, 2)), 1e-300)
    assert V.shape[1] == U.shape[1] == state.B.shape[0] == state.R.shape[1]
    assert (A @ V - U @ state.B).abs().max() <= slack
    assert (A.T @ U - V @ state.B.T - F @ state.R).abs().max() <= slack
    assert (V.T @ V - eye).abs().max() <= 100 * eps
    assert (U.T @ U - eye).abs().max() <= 100 * eps
    both = torch.cat([V, F], dim=1)
    assert (both.T @ both - torch.eye(both.shape[1])).abs().max() <= 100 * eps
    assert (state.AtU.double() - A.mT @ U).abs().max() <= slack
    assert (torch.linalg.vector_norm(A @ V - U @ state.B, dim=-2) <= state.defect + slack).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "name", ["line", "equal", "low rank", "zero", "geometric", "two clusters", "one huge"]
)
def test_invariants_hold_at_every_step_until_the_space_is_exhausted(name, shape, dtype):
    matrix = with_values(spectrum(name, shape[1]), *shape)
    _, state = start(matrix, dtype)
    state.initialize()
    assert_invariants(state, matrix, dtype)
    while not state.exhausted:
        before = state.size
        state.expand()
        assert state.size > before
        assert_invariants(state, matrix, dtype)
    assert state.size == shape[1]
    assert state.F.shape[1] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-18, 1e18])
def test_invariants_at_extreme_scales(scale, dtype):
    matrix = scale * with_values(line(1, 0, 30), 50, 30)
    _, state = start(matrix, dtype)
    state.initialize()
    for _ in range(4):
        state.expand()
        assert_invariants(state, matrix, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exhausted_bases_hold_every_singular_value(dtype):
    s = line(3, 0.5, 21)
    _, state = start(with_values(s, 34, 21), dtype, block_size=5)
    state.initialize()
    while not state.exhausted:
        state.expand()
    ritz = ritz_triplets(state, 21)
    assert torch.allclose(ritz.s, s, atol=50 * torch.finfo(dtype).eps)
    assert ritz.estimates.max() == 0


def test_b_is_block_upper_triangular_to_rounding():
    _, state = start(with_values(line(1, 0.1, 40), 60, 40), torch.float64, block_size=4)
    state.initialize()
    for _ in range(5):
        state.expand()
    below = torch.tril(state.B, diagonal=-4)
    beyond = torch.triu(state.B, diagonal=8)
    assert below.abs().max() == 0
    assert beyond.abs().max() < 1e-13


def test_estimates_are_the_residuals_of_the_ritz_vectors():
    matrix = with_values(line(1, 0, 50), 70, 50)
    _, state = start(matrix, torch.float64)
    state.initialize()
    for _ in range(5):
        state.expand()
    ritz = ritz_triplets(state, 8)
    U, V = state.left.U @ ritz.left, state.V @ ritz.right
    assert (matrix @ V - U * ritz.s).abs().max() < 1e-13
    norms = torch.linalg.vector_norm(matrix.T @ U - V * ritz.s, dim=0)
    assert torch.allclose(norms, ritz.estimates, atol=1e-13)
    assert norms.max() > 1e-3


def test_lost_rank_is_refilled_and_adds_no_value():
    matrix = with_values(torch.cat([line(2, 1, 6), repeat(0, 24)]), 40, 30)
    _, state = start(matrix, torch.float32, block_size=4)
    state.initialize()
    assert state.refills == 0
    while not state.exhausted:
        state.expand()
    assert state.refills > 0
    assert ritz_triplets(state, 30).s[6] < 1e-5


def test_full_rank_needs_no_refill():
    _, state = start(with_values(line(2, 1, 32), 40, 32), torch.float64, block_size=4)
    state.initialize()
    while not state.exhausted:
        state.expand()
    assert state.refills == 0


def test_random_columns_widen_the_next_block_and_keep_the_invariants():
    matrix = with_values(repeat(1, 40), 50, 40)
    _, state = start(matrix, torch.float64, block_size=4)
    state.initialize()
    state.add_probe_columns(3)
    assert state.F.shape[1] == 7
    assert_invariants(state, matrix, torch.float64)
    state.expand()
    assert_invariants(state, matrix, torch.float64)
    assert state.size == 11


def test_random_columns_never_outgrow_the_space():
    matrix = with_values(line(1, 0.5, 10), 12, 10)
    _, state = start(matrix, torch.float64, block_size=4)
    state.initialize()
    state.expand()
    state.add_probe_columns(5)
    assert state.size + state.F.shape[1] == 10
    state.expand()
    assert state.exhausted
    state.add_probe_columns(5)
    assert state.F.shape[1] == 0
    assert_invariants(state, matrix, torch.float64)


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_every_block_size_spends_its_width_in_products(block_size):
    A, state = start(with_values(line(1, 0.1, 20), 30, 20), torch.float64, block_size=block_size)
    state.initialize()
    state.expand() if not state.exhausted else None
    width = min(block_size, 20)
    assert state.size == min(2 * width, 20)
    assert A.products == (state.size, state.size)


def test_steps_count_the_blocks():
    state = GolubKahanFactorization(Diagonal(line(1, 0.1, 50)), block_size=6, seed=0, capacity=10)
    state.initialize()
    state.expand()
    assert state.steps == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["line", "equal", "low rank", "zero", "geometric", "two clusters"])
def test_invariants_hold_through_restarts_and_the_leading_values_stay(name, dtype):
    matrix = with_values(spectrum(name, 60), 90, 60)
    _, state = start(matrix, dtype)
    state.initialize()
    for _ in range(4):
        while state.size < 24:
            state.expand()
            assert_invariants(state, matrix, dtype)
        before = ritz_triplets(state, 9)
        state.restart(ritz_triplets(state, 9))
        assert state.size == 9
        assert_invariants(state, matrix, dtype)
        torch.testing.assert_close(ritz_triplets(state, 9).s, before.s)
        torch.testing.assert_close(
            ritz_triplets(state, 9).estimates, before.estimates, atol=1e-6, rtol=1e-6
        )
    assert state.expanded == 4 * state.steps > 24


def test_storage_never_exceeds_what_it_was_promised():
    A = MatrixOperator(with_values(line(1, 0, 60), 90, 60))
    state = GolubKahanFactorization(A, block_size=5, seed=0, capacity=8, max_size=33)
    state.initialize()
    while state.size + 5 <= 33:
        state.expand()
    held = state.V.untyped_storage().nbytes()
    assert held <= 33 * 60 * 8
