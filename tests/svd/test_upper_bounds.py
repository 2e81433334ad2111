"""√(s² + ε²) bounds the true values from above, as far as ε is known."""

import math

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    TOL,
    Diagonal,
    memory_for,
    rounding,
    solved_by,
    spectrum,
    with_values,
)

from jvpsvd import svds
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.methods.randomized import BlockKrylov, SubspaceIteration

DTYPES = (torch.float32, torch.float64)
CLEAN = ("line", "harmonic", "geometric", "low rank", "one huge")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
@pytest.mark.parametrize("name", SPECTRA)
def test_bases_that_span_the_space_leave_nothing_outside(name, shape, method, dtype):
    matrix = with_values(spectrum(name, 40), *shape).to(dtype)
    truth = torch.linalg.svdvals(matrix.double())
    result = svds(matrix, 40, tol=TOL[dtype], method=method)
    assert result.certificate.epsilon == 0
    assert torch.equal(result.upper_bounds(), result.s)
    assert (result.upper_bounds() >= truth - 4 * rounding(truth, dtype, shape)).all()


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("name", SPECTRA)
def test_what_a_solve_left_outside_lies_between_nothing_and_everything(name, k, vectors):
    truth = spectrum(name, 400)
    result = svds(Diagonal(truth), k, method="golub-kahan", vectors=vectors)
    epsilon = result.certificate.epsilon
    assert 0 <= epsilon <= float(truth[0]) * (1 + 1e-12)
    bounds = result.upper_bounds()
    assert (bounds >= result.s).all()
    torch.testing.assert_close(bounds, (result.s**2 + epsilon**2).sqrt())
    assert (bounds >= truth[:k] - result.residuals - rounding(truth, truth.dtype, (400, 400))).all()


@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("name", CLEAN)
def test_bounds_of_clean_spectra_are_above_the_truth(name, k):
    truth = spectrum(name, 400)
    for method in ("golub-kahan", "randomized"):
        result = svds(Diagonal(truth), k, method=method, on_unconverged="ignore")
        assert (result.upper_bounds() >= truth[:k] * (1 - 1e-3)).all()


@pytest.mark.parametrize("name", ["line", "harmonic", "cliff"])
def test_what_is_outside_is_at_least_the_next_value_nearly(name):
    """‖A − A V V'‖ is at least the next σ after the bases; the estimate is slightly below it."""
    truth = spectrum(name, 600)
    solver = GolubKahan(block_size=8)
    A = Diagonal(truth)
    (evidence,) = solved_by(solver, A, 10, 1e-5).evidence
    size = A.products.forward
    assert size < 600
    assert evidence.epsilon >= 0.5 * float(truth[size])
    assert evidence.epsilon <= float(truth[0]) * (1 + 1e-12)


def test_restarts_keep_an_estimate():
    truth = spectrum("line", 400)
    memory = memory_for(60, (400, 400), 20, 8)
    result = svds(Diagonal(truth), 20, tol=1e-6, method="golub-kahan", memory=memory)
    assert result.plan.max_size == 60
    assert 0 < result.certificate.epsilon <= 1
    assert (result.upper_bounds() >= truth[:20] * (1 - 1e-3)).all()


def test_subspace_iteration_bounds_nothing():
    A = Diagonal(spectrum("line", 2000))
    result = svds(A, 20, method="randomized", memory="10MiB", on_unconverged="ignore")
    assert result.method == "subspace-iteration"
    assert math.isnan(result.certificate.epsilon)
    assert torch.isinf(result.upper_bounds()).all()


@pytest.mark.parametrize("solver", [BlockKrylov(), SubspaceIteration()])
def test_a_block_as_wide_as_the_space_leaves_nothing_outside(solver):
    (evidence,) = solved_by(solver, Diagonal(spectrum("line", 30)), 20, 1e-5).evidence
    assert evidence.epsilon == 0


@pytest.mark.parametrize("method", ["golub-kahan", "exact"])
def test_each_matrix_of_a_batch_has_bounds_of_its_own(method):
    spectra = [spectrum(name, 300) for name in ("line", "geometric", "harmonic")]
    batch = torch.stack([with_values(s, 300, 320, seed=i) for i, s in enumerate(spectra)])
    result = svds(batch, 10, method=method)
    bounds = result.upper_bounds()
    assert bounds.shape == (3, 10)
    for i, s in enumerate(spectra):
        assert torch.equal(bounds[i], result.of(i).upper_bounds())
        assert (bounds[i] >= s[:10] * (1 - 1e-3) - 1e-12).all()
    epsilons = [certificate.epsilon for certificate in result.certificates]
    assert method == "exact" or (0 < min(epsilons) < max(epsilons) <= 1 + 1e-12)
