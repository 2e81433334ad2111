import numpy as np
import pytest
import torch

from jvpsvd import aslinearoperator, spectral_density, svds
from jvpsvd.errors import ArgumentError, ConvergenceWarning, NonFiniteError

P = 400


def spectra():
    i = torch.arange(1, P + 1, dtype=torch.float64)
    return {
        "line": 3 * i / P,
        "exponential": 30 * torch.exp(-8 * i / P),
        "deficient": torch.where(i <= 150, 1.0 + i / 100, 0.0),
        "bulk": torch.where(i <= 20, 10 + i, 2 * i / P),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [10, 60, 300])
@pytest.mark.parametrize("kind", spectra())
def test_intervals_hold_the_truth_however_many_copies_rounding_makes(kind, steps, dtype):
    values = spectra()[kind]
    A = torch.diag(values.to(dtype))
    spectrum = spectral_density(A, 16, steps, seed=1)
    for threshold in (0.3, 0.95, 2.0):
        low, high = spectrum.count(threshold).interval(0.9999)
        assert low <= float((values >= threshold).sum()) <= high
    low, high = spectrum.schatten(1).interval(0.9999)
    assert low <= float(values.sum()) <= high


def test_more_steps_narrow_bounds_and_more_probes_errors():
    A = torch.diag(spectra()["line"])
    few, steps = (spectral_density(A, 8, steps).count(1.0) for steps in (10, 40))
    many = spectral_density(A, 128, 10).count(1.0)
    assert steps.high - steps.low < 0.4 * (few.high - few.low)
    assert many.standard_error < 0.4 * few.standard_error


def test_it_takes_one_jvp_and_one_vjp_for_each_vector_and_step():
    A = aslinearoperator(torch.diag(spectra()["line"]))
    spectral_density(A, 6, 9)
    assert (A.products.forward, A.products.reverse) == (54, 54)


def test_both_orientations_have_min_m_n_values():
    A = torch.randn(30, 200, generator=torch.Generator().manual_seed(0)).double()
    truth = torch.linalg.svdvals(A)
    threshold = float(truth[14:16].mean())
    for B in (A, A.T):
        spectrum = spectral_density(B, 64, 30)
        low, high = spectrum.count(threshold).interval(0.9999)
        assert spectrum.size == 30
        assert low <= 15 <= high


def test_a_batch_has_a_list():
    values = torch.rand(3, 60, generator=torch.Generator().manual_seed(0)) * 2
    spectra_of = spectral_density(torch.diag_embed(values), 32, 20)
    for one, spectrum in zip(values, spectra_of, strict=True):
        low, high = spectrum.count(1.0).interval(0.9999)
        assert low <= int((one >= 1).sum()) <= high


def test_it_stops_when_the_error_is_met():
    A = aslinearoperator(torch.diag(spectra()["deficient"]))
    spectral_density(A, 64, 200, error=0.05)
    assert A.products.forward < 64 * 100


def test_an_error_that_steps_do_not_reach_is_said():
    A = torch.diag(spectra()["line"])
    with pytest.warns(ConvergenceWarning, match="raise steps or probes"):
        spectral_density(A, 64, 5, error=0.05)


def test_an_error_below_the_sampling_is_refused_with_the_number_of_probes():
    A = torch.diag(spectra()["line"])
    with pytest.raises(ArgumentError, match=r"give probes=\d+"):
        spectral_density(A, 4, error=0.01)


def test_an_error_of_the_sampling_alone_is_not_refused():
    """The mean over shares x of √(2 x (1 − x) / (62 · 4)), times 1.96, is 0.0691."""
    A = torch.diag(torch.linspace(0.1, 2, 60))
    with pytest.warns(ConvergenceWarning):
        spectral_density(A, 4, 5, error=0.0695)
    with pytest.raises(ArgumentError, match="give probes=5"):
        spectral_density(A, 4, 5, error=0.0685)


def test_the_caller_can_stop_it():
    A = aslinearoperator(torch.diag(spectra()["line"]))
    spectrum = spectral_density(A, 4, 50, progress=lambda now: now.share < 0.2)
    assert A.products.forward == 40
    assert "10 steps" in repr(spectrum)


def test_the_same_seed_gives_the_same_numbers():
    A = torch.diag(spectra()["line"])
    one, two, other = (spectral_density(A, 4, 20, seed=seed).count(1.0) for seed in (0, 0, 1))
    assert one == two != other


def test_svds_knows_the_leading_values_and_is_nearer():
    A = torch.diag(spectra()["bulk"])
    alone = spectral_density(A, 8, 30).participation_ratio()
    known = svds(A, 30, method="golub-kahan", block_size=8).spectrum.participation_ratio()
    assert known.standard_error < 0.1 * alone.standard_error


@pytest.mark.parametrize(
    "options", [{"probes": 0}, {"steps": 0}, {"error": 1.0}, {"seed": -1}, {"probes": 1.5}]
)
def test_bad_arguments(options):
    with pytest.raises(ArgumentError):
        spectral_density(torch.eye(4), **options)


def test_operators_without_a_finite_product_are_refused():
    A = torch.eye(4)
    A[2, 2] = np.nan
    with pytest.raises(NonFiniteError):
        spectral_density(A)


def test_zeros():
    spectrum = spectral_density(torch.zeros(6, 4), 3, 4)
    assert spectrum.count(0.5).value == 0
