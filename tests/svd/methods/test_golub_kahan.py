import pytest
import torch
from support.svd_problems import (
    Diagonal,
    assert_truthful,
    line,
    repeat,
    solved_by,
    spectrum,
    with_values,
)

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.methods.golub_kahan import GolubKahan
from jvpsvd.svd.triplets import worst_orthonormality


def test_steep_spectra_take_few_products():
    s = torch.logspace(0, -30, 400, dtype=torch.float64)
    A = MatrixOperator(with_values(s, 500, 400))
    result = svds(A, 40, method="golub-kahan")
    assert result.products.total < 300
    assert_truthful(result, s, (500, 400))


def test_tighter_tolerances_take_more_products_and_leave_smaller_residuals():
    loose, tight = (
        svds(Diagonal(spectrum("harmonic", 500)), 20, tol=tol, method="golub-kahan")
        for tol in (1e-2, 1e-10)
    )
    assert loose.products.total < tight.products.total
    assert tight.residuals.max() < 1e-10
    assert loose.residuals.max() < 1e-2


def test_the_products_follow_the_shorter_side():
    result = svds(with_values(line(1, 0, 20), 20, 300), 20, method="golub-kahan")
    assert result.products == (20 + 2, 20 + 2)


@pytest.mark.parametrize("max_size", [40, 72, 100])
def test_bases_end_at_max_size_and_say_so(max_size):
    solver = GolubKahan(block_size=8, max_size=max_size, max_restarts=1)
    triplets = solved_by(solver, Diagonal(line(1, 0, 400)), 30, 1e-8)
    (evidence,) = triplets.evidence
    assert not evidence.complete
    assert evidence.evidence == f"none: given up after 1 restart of {max_size} columns"
    assert triplets.residuals.max() > 1e-8


def test_an_exhausted_space_is_complete_whatever_the_residuals():
    A = Diagonal(line(1, 0.5, 40))
    triplets = solved_by(GolubKahan(block_size=7), A, 40, 1e-15)
    (evidence,) = triplets.evidence
    assert evidence.complete
    assert "whole space" in evidence.evidence
    assert A.products == (40, 40)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_a_probe_that_exhausts_the_space_ends_the_solve(k):
    """Random columns that completed the space once left an empty block to expand."""
    for n in range(k, 60):
        truth = torch.cat([repeat(2, (n + 1) // 2), repeat(1, n - (n + 1) // 2)])
        result = svds(Diagonal(truth), k, method="golub-kahan", block_size=4)
        assert_truthful(result, truth, (n, n))


def test_a_probe_finds_what_the_start_never_met():
    """A block of one column finds the leading value once; repetitions come from refills only."""
    truth = torch.cat([repeat(3, 3), torch.logspace(0, -12, 397, dtype=torch.float64)])
    result = svds(Diagonal(truth), 6, tol=1e-8, method="golub-kahan", block_size=1)
    assert result.s[:3].tolist() == pytest.approx([3, 3, 3], abs=1e-10)
    assert "raised no value" in result.certificate.evidence


def test_clean_spectra_are_probed_with_few_columns():
    truth = spectrum("harmonic", 800)
    A = Diagonal(truth)
    assert_truthful(svds(A, 50, method="golub-kahan"), truth, (800, 800))
    clustered = torch.cat([repeat(1, 20), truth[1:]])
    B = Diagonal(clustered)
    assert_truthful(svds(B, 50, method="golub-kahan"), clustered, (819, 819))
    assert A.products.total < B.products.total


def test_the_squared_norm_is_estimated_with_its_error():
    off = []
    for seed in range(40):
        A = Diagonal(spectrum("harmonic", 300))
        (evidence,) = solved_by(GolubKahan(), A, 5, 1e-3, seed=seed).evidence
        truth = float((spectrum("harmonic", 300) ** 2).sum())
        off.append((evidence.fro2 - truth) / evidence.fro2_error)
    off = torch.tensor(off)
    assert off.abs().median() < 1.5
    assert 0.4 < off.std() < 2.5


def test_a_solve_that_misses_because_a_basis_was_lost_is_repeated():
    """U may lose so much that the first attempt misses the tolerance by a factor of 100."""
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(n, 200, dtype=torch.float64))[0] for n in (900, 400))
    values = torch.exp(-torch.arange(200, dtype=torch.float64) / 4)
    products = []
    for loss in (0.0, 1e4):
        A = MatrixOperator((left * values) @ right.T)
        triplets = solved_by(GolubKahan(block_size=4, loss=loss), A, 60, 1e-12)
        assert triplets.residuals.max() < 1e-13
        assert worst_orthonormality(triplets) < 1e-13
        assert (triplets.s - values[:60]).abs().max() < 1e-13
        products.append(A.products.total)
    assert products[1] > 1.9 * products[0]  # the products of both attempts
