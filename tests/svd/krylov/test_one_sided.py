"""U is reorthogonalised only when necessary, V always, and values stay accurate."""

import math

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    TOL,
    Diagonal,
    assert_truthful,
    line,
    repeat,
    rounding,
    spectrum,
    with_values,
)
from support.thinned import thinned

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.krylov.golub_kahan import GolubKahanFactorization
from jvpsvd.svd.krylov.retry import RetryWith
from jvpsvd.svd.krylov.ritz import ritz_triplets

DTYPES = (torch.float32, torch.float64)
LOSSES = (0.0, 1e-9, 1e-4)


def factorized(matrix, dtype, loss=0.0, block_size=4, **options):
    A = MatrixOperator(matrix.to(dtype))
    state = GolubKahanFactorization(
        A, block_size=block_size, seed=0, capacity=2, max_loss=loss, **options
    )
    state.initialize()
    return state


def loss_of(U):
    gram = U.mT @ U
    eye = torch.eye(gram.shape[-1], dtype=torch.float64)
    return torch.linalg.matrix_norm(gram - eye, 2).max()


def assert_invariants(state, matrix, loss, restarts=0):
    dtype = state.V.dtype
    A = matrix.to(dtype).double()
    V, U, F = state.V.double(), state.left.U.double(), state.F.double()
    B, R = state.B, state.R
    eps = torch.finfo(dtype).eps * (1 + restarts)
    norm = torch.linalg.matrix_norm(A, 2)[..., None, None].clamp_min(1e-300)
    both = torch.cat([V, F], dim=-1)
    assert loss_of(both) <= 200 * eps
    assert loss_of(U) <= 200 * eps + 10 * loss
    assert ((A @ V - U @ B).abs() <= 200 * eps * norm).all()
    assert ((A.mT @ U - V @ B.mT - F @ R).abs() <= (200 * eps + 10 * loss) * norm).all()
    assert ((state.AtU.double() - A.mT @ U).abs() <= 200 * eps * norm).all()
    forward_residuals = torch.linalg.vector_norm(A @ V - U @ B, dim=-2)
    assert (forward_residuals <= state.defect + 200 * eps * norm[..., 0]).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (9, 1), (40, 33), (90, 60)])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_invariants_hold_whatever_may_be_lost(name, shape, dtype, loss):
    matrix = with_values(spectrum(name, shape[1]), *shape)
    state = factorized(matrix, dtype, loss)
    assert_invariants(state, matrix, loss)
    while not state.exhausted:
        if state.steps == 3:
            state.add_probe_columns(2)
        state.expand()
        assert_invariants(state, matrix, loss)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_the_invariants_hold_through_restarts(name, dtype, loss):
    matrix = with_values(spectrum(name, 60), 90, 60)
    state = factorized(matrix, dtype, loss)
    for restarts in range(6):
        while state.size + state.F.shape[-1] <= 28:
            state.expand()
            assert_invariants(state, matrix, loss, restarts)
        before = ritz_triplets(state, 9).s
        state.restart(ritz_triplets(state, 11))
        assert_invariants(state, matrix, loss, restarts + 1)
        torch.testing.assert_close(ritz_triplets(state, 9).s, before, atol=1e-12, rtol=1e-12)
        if restarts == 2:
            state.add_probe_columns(3)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_invariants_hold_in_a_batch_that_loses_matrices(dtype, loss):
    batch = torch.stack(
        [with_values(spectrum(s, 50), 70, 50, seed=i) for i, s in enumerate(SPECTRA)]
    )
    state = factorized(batch, dtype, loss)
    for _ in range(4):
        state.expand()
        assert_invariants(state, batch, loss)
    state.add_probe_columns(3)
    state.expand()
    index = torch.tensor([0, 2, 4, 5, 7, 12])
    state.select(index)
    assert_invariants(state, batch[index], loss)
    state.restart(ritz_triplets(state, 9))
    assert_invariants(state, batch[index], loss, 1)
    last = torch.tensor([4, 1])
    state.select(last)
    for _ in range(3):
        state.expand()
        assert_invariants(state, batch[index][last], loss, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_spectra_that_lose_nothing_are_not_reorthogonalised(dtype):
    matrix = with_values(line(1, 0.5, 80), 120, 80)
    careful, sparing = (factorized(matrix, dtype, loss, block_size=8) for loss in (0.0, 1e-4))
    for state in (careful, sparing):
        for _ in range(6):
            state.expand()
    assert careful.left.reorthogonalized == careful.steps
    assert sparing.left.reorthogonalized == 0
    assert loss_of(careful.left.U.double()) <= 20 * torch.finfo(dtype).eps


def test_values_that_fall_steeply_are_reorthogonalised():
    state = factorized(with_values(spectrum("geometric", 60), 90, 60), torch.float32, 1e-4)
    while not state.exhausted:
        state.expand()
    assert 0 < state.left.reorthogonalized < state.steps
    assert loss_of(state.left.U.double()) < 1e-3


def test_after_a_full_pass_the_loss_begins_again():
    values = torch.exp(-torch.arange(400, dtype=torch.float64) / 45)
    state = factorized(with_values(values, 600, 400), torch.float32, 1e-4, block_size=8)
    full = []
    while state.size < 320:
        before = state.left.reorthogonalized
        state.expand()
        full.append(state.left.reorthogonalized > before)
    first = full.index(True)
    assert full[first : first + 3] == [True, False, False]
    assert sum(full[first : first + 6]) <= 3
    assert loss_of(state.left.U.double()) < 3e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["line", "harmonic", "one above a floor"])
def test_without_the_left_basis_all_else_is_the_same(name, dtype):
    matrix = with_values(spectrum(name, 120), 150, 120)
    whole, right = (
        factorized(matrix, dtype, 1e-4, block_size=8, keep_left=keep) for keep in (True, False)
    )
    for _ in range(4):
        whole.expand()
        right.expand()
    for part in ("B", "R", "V", "F", "AtU", "defect"):
        assert torch.equal(getattr(whole, part), getattr(right, part))
    full, bare = (state.measure(ritz_triplets(state, 6)) for state in (whole, right))
    assert torch.equal(full[0], bare[0])
    assert bare[2] is None
    assert torch.equal(full[3], bare[3])
    torch.testing.assert_close(full[1], bare[1], atol=1e-4 * float(full[0][0]), rtol=0)


def test_what_the_left_basis_is_needed_for_is_refused():
    state = factorized(with_values(line(1, 0.5, 40), 50, 40), torch.float64, 1e-4, keep_left=False)
    state.expand()
    assert state.left.U is None
    with pytest.raises(RetryWith) as again:
        state.restart(ritz_triplets(state, 4))
    assert again.value.keep_left
    assert state.size == 8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["low rank", "zero"])
def test_lost_rank_needs_the_left_basis(name, dtype):
    with pytest.raises(RetryWith):  # noqa: PT012 -- which step loses the rank is not the point
        state = factorized(with_values(spectrum(name, 40), 50, 40), dtype, 1e-4, keep_left=False)
        while not state.exhausted:
            state.expand()


def test_nothing_may_be_lost_without_the_left_basis():
    with pytest.raises(RetryWith):
        factorized(with_values(line(1, 0.5, 40), 50, 40), torch.float64, 0.0, keep_left=False)


@thinned("name, shape, dtype", SPECTRA, [(170, 130), (130, 170)], DTYPES, keep=2)
def test_values_alone_are_the_values_of_the_triplets(name, shape, dtype):
    matrix = with_values(spectrum(name, 130), *shape).to(dtype)
    truth = torch.linalg.svdvals(matrix.double())
    for k in (1, 12, 130):
        full, bare = (
            svds(matrix, k, tol=TOL[dtype], method="golub-kahan", vectors=wanted)
            for wanted in (True, False)
        )
        assert (bare.U, bare.Vh) == (None, None)
        assert bare.converged.all()
        assert bare.certificate.sound
        assert bare.certificate.complete
        # Values that differ by less than the tolerance may be exchanged.
        slack = 4 * rounding(truth, dtype, shape)
        assert (bare.s.double() <= truth[:k] + slack).all()
        assert ((bare.s.double() - truth[:k]).abs() <= TOL[dtype] * truth[0] + slack).all()
        if name == "clusters":
            continue
        assert_truthful(bare, truth, shape)
        allowed = full.residuals + bare.residuals + 4 * rounding(truth, dtype, shape)
        assert ((full.s - bare.s).abs() <= allowed).all()


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECTRA)
def test_residuals_without_left_vectors_are_no_smaller_than_the_errors(name, dtype, tol):
    truth = spectrum(name, 300)
    result = svds(
        Diagonal(truth.to(dtype)),
        20,
        tol=tol,
        method="golub-kahan",
        vectors=False,
        on_unconverged="ignore",
    )
    slack = rounding(truth, dtype, (300, 300))
    nearest = (result.s.double()[:, None] - truth.to(dtype).double()).abs().amin(1)
    assert (nearest <= result.residuals.double() + slack).all()
    allowed = tol * float(truth[0]) + slack
    assert ((result.s.double() - truth[:20]).abs() <= allowed)[result.converged].all()


def test_steep_values_alone_begin_again_and_count_all_products():
    matrix = with_values(torch.cat([line(2, 1, 30), repeat(0, 170)]), 220, 200)
    A = MatrixOperator(matrix)
    result = svds(A, 40, method="golub-kahan", vectors=False)
    assert result.converged.all()
    assert result.products == A.products
    assert result.products.total > svds(matrix, 40, method="golub-kahan").products.total
    assert math.isclose(float(result.s[29]), 1.0)
    assert result.s[30:].max() < 1e-10
