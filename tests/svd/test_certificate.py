import dataclasses
import math

import pytest
import torch
from support.svd_problems import (
    Diagonal,
    line,
    memory_for,
    repeat,
    solved_by,
    spectrum,
    with_values,
)

from jvpsvd import LinearOperator, MatrixOperator, svds
from jvpsvd.errors import ConvergenceWarning
from jvpsvd.svd.certificate import certify
from jvpsvd.svd.methods.exact import Exact
from jvpsvd.svd.methods.golub_kahan import GolubKahan

METHODS = ("golub-kahan", "exact")


class WrongTranspose(LinearOperator):
    """Products of two different matrices."""

    def __init__(self, forward, reverse):
        super().__init__(forward.shape, forward.dtype)
        self.forward, self.reverse = forward, reverse

    def _matmat(self, V):
        return self.forward @ V

    def _rmatmat(self, U):
        return self.reverse.T @ U


class Noisy(MatrixOperator):
    """Products that differ from call to call."""

    generator = torch.Generator().manual_seed(0)

    def _matmat(self, V):
        image = super()._matmat(V)
        return image + 1e-2 * torch.randn(image.shape, dtype=V.dtype, generator=self.generator)

    def _rmatmat(self, U):
        image = super()._rmatmat(U)
        return image + 1e-2 * torch.randn(image.shape, dtype=U.dtype, generator=self.generator)


@pytest.fixture
def matrix():
    return with_values(line(2, 0.5, 60), 90, 60)


@pytest.fixture
def solved(matrix):
    A = MatrixOperator(matrix)
    return A, solved_by(Exact(), A, 10, 1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(90, 60), (60, 90)])
@pytest.mark.parametrize("k", [5, 60])
def test_a_wrong_transpose_never_converges(method, shape, k):
    A = with_values(line(2, 0.5, 60), *shape)
    B = A + 1e-3 * with_values(line(1, 0, 60), *shape, seed=7)
    with pytest.warns(ConvergenceWarning):
        result = svds(WrongTranspose(A, B), k, method=method)
    assert not result.converged.any()


@pytest.mark.parametrize("method", METHODS)
def test_products_that_do_not_repeat_never_converge(matrix, method):
    with pytest.warns(ConvergenceWarning):
        result = svds(Noisy(matrix), 10, method=method)
    assert not result.converged.any()


def test_a_good_answer_is_sound(solved):
    (certificate,) = certify(*solved, seed=0)
    assert certificate.sound
    assert certificate.orthonormality < 1e-13
    assert certificate.combination_residual < 1e-13
    assert "sound" in str(certificate)


@pytest.mark.parametrize("change", [0.01, -0.01])
def test_a_value_that_is_not_there_is_unsound(solved, change):
    A, triplets = solved
    s = triplets.s.clone()
    s[3] += change
    (certificate,) = certify(A, dataclasses.replace(triplets, s=s), seed=0)
    assert not certificate.sound
    assert "NOT SOUND" in str(certificate)


@pytest.mark.parametrize("k", [1, 3])
def test_residuals_that_are_too_small_are_unsound(solved, k):
    """For signs ω, Σ ωᵢ rᵢ / √k of orthogonal rᵢ of one length is as long as one of them."""
    A, triplets = solved
    part = {name: getattr(triplets, name)[:, :k] for name in ("U", "V")}
    s = triplets.s[:k] - 1e-3
    for share, sound in ((1.01, True), (0.6, False)):
        residuals = torch.full_like(s, share * 1e-3 / math.sqrt(k))
        stated = dataclasses.replace(triplets, s=s, residuals=residuals, **part)
        assert certify(A, stated, seed=0)[0].sound is sound


class LowerInside(LinearOperator):
    """Products in float32 of an operator in float64, which does not say so."""

    def __init__(self, A):
        super().__init__(A.shape, A.dtype, A.device)
        self.A = A.float()

    def _matmat(self, V):
        return (self.A @ V.float()).double()

    def _rmatmat(self, U):
        return (self.A.mT @ U.float()).double()


def test_products_that_round_more_than_their_dtype_are_sound():
    """The residual of one triplet is measured twice, and differs by that rounding."""
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        A = torch.randn(200, 300, generator=generator, dtype=torch.float64)
        with pytest.warns(ConvergenceWarning):
            result = svds(LowerInside(A), 1, method="randomized", seed=seed)
        assert result.certificate.sound


def test_the_same_triplet_twice_is_unsound(solved):
    A, triplets = solved
    twice = torch.tensor([0, 0, *range(2, 10)])
    doubled = dataclasses.replace(
        triplets, s=triplets.s[twice], U=triplets.U[:, twice], V=triplets.V[:, twice]
    )
    (certificate,) = certify(A, doubled, seed=0)
    assert certificate.orthonormality == pytest.approx(1)
    assert not certificate.sound


def test_vectors_of_another_operator_are_unsound(solved):
    _, triplets = solved
    other = MatrixOperator(with_values(line(2, 0.5, 60), 90, 60, seed=3))
    assert not certify(other, triplets, seed=0)[0].sound


@pytest.mark.parametrize("method", METHODS)
def test_energy_is_a_share_of_the_whole(method):
    s = spectrum("harmonic", 50)
    certificate = svds(with_values(s, 70, 50), 10, method=method).certificate
    share = float((s[:10] ** 2).sum() / (s**2).sum())
    error = share * certificate.fro2_error / certificate.fro2
    assert certificate.energy_share == pytest.approx(share, abs=4 * error + 1e-9)


def test_all_values_hold_all_energy():
    certificate = svds(with_values(line(1, 0, 30), 30, 40), 30, method="exact").certificate
    assert certificate.energy_share == pytest.approx(1)
    assert certificate.fro2_error == 0


CLUSTER = torch.cat([repeat(1, 60), line(0.9, 0.1, 940)])


@pytest.mark.parametrize(
    ("share", "error", "words"),
    [
        (0.5, 0.01, "50.0 % ± 0.5 of the energy"),
        (1.0, 0.0, "100.0 % of the energy"),
        (1.0 + 1e-7, 0.0, "100.0 % of the energy"),
        (1.013, 0.0016, "about 100 % of the energy"),
        (9.4, math.inf, "about 100 % of the energy"),
    ],
)
def test_no_more_than_all_energy_is_said_to_be_held(solved, share, error, words):
    certificate = dataclasses.replace(
        certify(*solved, seed=0)[0], energy_share=share, fro2=1.0, fro2_error=error
    )
    assert f"; {words}" in str(certificate)


def test_values_behind_an_unprobed_cluster_are_not_guaranteed():
    """Bases too small to find a higher multiplicity: found values are right, later ones may not
    be."""
    solver = GolubKahan(block_size=16, max_size=340, max_restarts=0)
    triplets = solved_by(solver, Diagonal(CLUSTER), 30, 1e-2)
    (evidence,) = triplets.evidence
    assert not evidence.complete
    assert triplets.residuals.max() <= 1e-2
    assert triplets.s[-1] < 0.9
    assert evidence.guaranteed == 20  # a block of 16, and 4 random columns
    assert (triplets.s[:20] > 0.999).all()


def test_bases_restart_to_find_higher_multiplicities():
    memory = memory_for(340, (1000, 1000), 30, 8, block_size=16)
    result = svds(
        Diagonal(CLUSTER), 30, tol=1e-2, method="golub-kahan", memory=memory, block_size=16
    )
    assert result.converged.all()
    assert (result.s > 0.999).all()
