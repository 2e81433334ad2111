"""For any spectrum and method, no wrong value is marked converged, and none is missing."""

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

from jvpsvd import svds

METHODS = ("golub-kahan", "exact")
DTYPES = (torch.float32, torch.float64)
SHAPES = ((1, 1), (1, 40), (40, 1), (3, 5), (60, 34), (70, 200))


def solve(matrix, k, dtype, method, **options):
    """Solve where every value must converge: an incomplete answer would warn, which is an error."""
    matrix = matrix.to(dtype)
    result = svds(matrix, k, tol=TOL[dtype], method=method, **options)
    assert_truthful(result, torch.linalg.svdvals(matrix.double()), matrix.shape)
    assert result.converged.all()
    assert result.certificate.sound
    assert result.certificate.complete
    return result


@thinned("name, shape, method, dtype", SPECTRA, SHAPES, METHODS, DTYPES, keep=2)
def test_every_k_of_every_spectrum(name, shape, method, dtype):
    p = min(shape)
    matrix = with_values(spectrum(name, p), *shape)
    for k in sorted({1, max(1, p // 5), max(1, p // 2), p}):
        solve(matrix, k, dtype, method)


@thinned("name, scale, method, dtype", SPECTRA, [1e-18, 1e18], METHODS, DTYPES, keep=2)
def test_scale_changes_nothing(name, scale, method, dtype):
    matrix = with_values(spectrum(name, 50), 60, 50)
    result = solve(scale * matrix, 30, dtype, method)
    reference = solve(matrix, 30, dtype, method)
    tolerance = 10 * TOL[dtype] * float(reference.s[0])
    assert (result.s.double() / scale - reference.s).abs().max() <= tolerance


@thinned(
    "name, shape, dtype, tol", SPECTRA, [*SHAPES, (200, 170)], DTYPES, [1e-2, 1e-5],
    keep=2, always=lambda name, shape, dtype, tol: tol == 1e-2,
)  # fmt: skip
def test_randomized_marks_nothing_wrong_as_converged(name, shape, dtype, tol):
    """The solve need not converge, but triplets marked converged must be right."""
    p = min(shape)
    matrix = with_values(spectrum(name, p), *shape).to(dtype)
    truth = torch.linalg.svdvals(matrix.double())
    for k in sorted({1, max(1, p // 5), max(1, p // 2), p}):
        result = svds(matrix, k, tol=tol, method="randomized", on_unconverged="ignore")
        assert_truthful(result, truth, shape)
        assert result.certificate.sound
        if k == p:
            assert result.converged.all()


@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize("name", SPECTRA)
def test_randomized_at_extreme_scales(name, scale):
    matrix = (scale * with_values(spectrum(name, 50), 60, 50)).float()
    result = svds(matrix, 30, method="randomized", on_unconverged="ignore")
    assert_truthful(result, torch.linalg.svdvals(matrix.double()), (60, 50))


@pytest.mark.parametrize("name", ["harmonic", "geometric", "clusters", "low rank", "equal"])
def test_a_large_matrix(name):
    solve(with_values(spectrum(name, 600), 600, 900), 80, torch.float32, "golub-kahan")


@pytest.mark.parametrize("name", ["cluster then line", "two clusters", "clusters", "one huge"])
@pytest.mark.parametrize("block_size", [1, 5, 100])
def test_every_block_size(name, block_size):
    matrix = with_values(spectrum(name, 90), 120, 90)
    solve(matrix, 40, torch.float32, "golub-kahan", block_size=block_size)


# A block of 16 finds a repeated value 16 times, and then lower values with small residuals.
CROWDED = {
    "30 equal values lead": ((repeat(1, 30), line(0.9, 0.1, 270)), 40),
    "60 equal values lead": ((repeat(1, 60), line(0.9, 0.1, 240)), 45),
    "two times 20 equal values": ((repeat(1, 20), repeat(0.99, 20), line(0.98, 0.3, 260)), 40),
    "equal values in the middle": ((line(10, 5, 20), repeat(4, 30), line(3.9, 1, 250)), 55),
    "nearly equal values": ((line(1.000001, 0.999999, 30), line(0.9, 0.1, 270)), 40),
    "equal values, then nothing": ((repeat(1, 17), repeat(0, 283)), 20),
    "equal values, then decay": (
        (repeat(1, 40), torch.logspace(-1, -8, 260, dtype=torch.float64)),
        60,
    ),
}


@thinned(
    "name, dtype, tol, seed", list(CROWDED), DTYPES, [1e-5, 1e-2], [0, 1],
    keep=2, always=lambda name, dtype, tol, seed: tol == 1e-2,
)  # fmt: skip
def test_multiplicities_above_the_block_size(name, dtype, tol, seed):
    parts, k = CROWDED[name]
    truth = torch.cat(parts)
    result = svds(Diagonal(truth.to(dtype)), k, tol=tol, method="golub-kahan", seed=seed)
    assert result.converged.all()
    wrong = (result.s.double() - truth[:k]).abs().max()
    assert wrong <= tol * truth[0] + rounding(truth, dtype, (300, 300))


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_block_that_is_too_narrow_costs_little_more_than_one_that_is_not(dtype, vectors):
    truth = torch.cat([repeat((i + 1) ** -0.5, 10) for i in range(300)])
    narrow, wide = (
        svds(
            Diagonal(truth.to(dtype)), 60, tol=1e-5, method="golub-kahan", block_size=width,
            vectors=vectors,
        )
        for width in (8, 16)
    )  # fmt: skip
    assert (narrow.s.double() - truth[:60]).abs().max() <= 1e-5
    allowance = 120  # columns after which the cluster is recognised
    assert narrow.products.forward <= wide.products.forward + allowance


@pytest.mark.parametrize("tol", [1e-5, 1e-2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CROWDED)
def test_randomized_among_equal_values(name, dtype, tol):
    parts, k = CROWDED[name]
    truth = torch.cat(parts)
    result = svds(
        Diagonal(truth.to(dtype)), k, tol=tol, method="randomized", on_unconverged="ignore"
    )
    wrong = (result.s.double() - truth[:k]).abs()[result.converged]
    assert (wrong <= tol * truth[0] + rounding(truth, dtype, (300, 300))).all()


HIDDEN = [
    ((repeat(1, 60), line(0.9, 0.1, 940)), 30),
    ((repeat(1, 20), repeat(0.99, 20), line(0.98, 0.3, 960)), 40),
    ((line(10, 5, 20), repeat(4, 30), line(3.9, 1, 950)), 55),
]


@thinned(
    "problem, dtype, tol", HIDDEN, DTYPES, [1e-5, 1e-2],
    keep=2, always=lambda problem, dtype, tol: tol == 1e-2,
)  # fmt: skip
def test_multiplicities_that_only_a_long_probe_can_find(problem, dtype, tol):
    """Random columns have little of each of many directions: two steps raise no value here."""
    parts, k = problem
    truth = torch.cat(parts)
    result = svds(Diagonal(truth.to(dtype)), k, tol=tol, method="golub-kahan")
    assert result.converged.all()
    wrong = (result.s.double() - truth[:k]).abs().max()
    assert wrong <= tol * truth[0] + rounding(truth, dtype, (1000, 1000))


def test_equal_values_on_which_lapack_gave_up():
    """The projected problem of this solve made divide and conquer fail in one LAPACK."""
    truth = torch.cat([line(10, 5, 40), repeat(4, 40), line(3.9, 1, 520)])
    result = svds(Diagonal(truth), 80, method="golub-kahan", seed=1)
    assert_truthful(result, truth, (600, 600))
    assert result.converged.all()


@pytest.mark.parametrize("method", [*METHODS, "randomized"])
def test_float32_says_so_when_it_cannot_reach_the_tolerance(method):
    matrix = with_values(line(1, 0.5, 40), 50, 40).float()
    result = svds(matrix, 10, tol=1e-12, method=method, on_unconverged="ignore")
    assert not result.converged.any()
    assert_truthful(result, line(1, 0.5, 40), (50, 40))


@pytest.mark.parametrize("method", [*METHODS, "randomized"])
def test_values_below_rounding_are_not_invented(method):
    result = solve(with_values(spectrum("low rank", 60), 80, 60), 60, torch.float32, method)
    assert result.s[15:].max() < 5e-6 * 5
    assert result.s[14] > 0.99


@pytest.mark.parametrize("method", [*METHODS, "randomized"])
def test_the_zero_operator(method):
    result = svds(torch.zeros(30, 20), 5, method=method)
    assert result.s.tolist() == [0] * 5
    assert result.converged.all()
    assert (result.U.T @ result.U - torch.eye(5)).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float32, 1e-40), (torch.float64, 1e-170), (torch.float64, 1e170)],
)
@pytest.mark.parametrize("method", [*METHODS, "randomized"])
def test_scales_whose_squares_are_lost_are_refused(method, dtype, scale):
    """Residuals would underflow to 0, and every triplet would appear to be converged."""
    matrix = (scale * with_values(line(1, 0.1, 60), 80, 60)).to(dtype)
    with pytest.raises(ValueError, match="nearer 1"):
        svds(matrix, 5, method=method)


def test_tiny_values_with_ordinary_ones_are_not_refused():
    truth = torch.cat([repeat(1, 10), repeat(1e-200, 50)])
    for method in METHODS:
        result = svds(Diagonal(truth), 40, method=method)
        assert_truthful(result, truth, (60, 60))
        assert result.converged.all()
