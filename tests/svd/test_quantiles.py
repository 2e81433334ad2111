"""Quantiles of spectra that are known exactly: bounds hold the truth, however close they are."""

import pytest
import torch
from torch import Tensor, nn

import jvpsvd
from jvpsvd.svd.spectrum import Spectrum

LEVELS = {
    "equal": [(0.7, 200)],
    "two": [(2.0, 50), (0.5, 150)],
    "three": [(3.0, 100), (1.0, 60), (0.01, 40)],
    "rank deficient": [(1.0, 50), (0.0, 150)],
    "line": [(i / 100, 1) for i in range(200, 0, -1)],
}


def values_of(name: str) -> Tensor:
    return torch.cat([torch.full((n,), v, dtype=torch.float64) for v, n in LEVELS[name]])


def spectra_of(A: Tensor) -> list[Spectrum]:
    few = jvpsvd.svds(A, 5, method="golub-kahan").spectrum
    return [few, jvpsvd.spectral_density(A, probes=8, steps=20), jvpsvd.svds(A, len(A)).spectrum]


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", LEVELS)
def test_bounds_hold_the_truth(name, q):
    torch.manual_seed(0)
    s, n = values_of(name), 200
    left, right = (torch.linalg.qr(torch.randn(n, n).double())[0] for _ in range(2))
    ascending = s.flip(0)
    below, above = float(ascending[round(q * n) - 1]), float(ascending[round(q * n)])
    for spectrum in spectra_of((left * s) @ right):
        found = spectrum.quantile(q)
        low, high = found.interval(0.9999)
        assert low - 1e-12 <= above
        assert below <= high + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_median_of_equal_values_is_their_value(dtype):
    J = jvpsvd.JacobianOperator(nn.AvgPool2d(2), torch.rand(1, 1, 32, 32, dtype=dtype))  # all 0.5
    for spectrum in (jvpsvd.svds(J, 10).spectrum, jvpsvd.spectral_density(J)):
        median = spectrum.quantile(0.5)
        assert median.value == pytest.approx(0.5, rel=1e-6)
        assert median.low <= 0.5 <= median.high
        assert median.standard_error == 0


def test_a_quantile_between_zeros_is_found():
    s = values_of("rank deficient")
    assert jvpsvd.spectral_density(torch.diag(s), probes=4, steps=5).quantile(0.5).value < 1e-9


@pytest.mark.parametrize("steps", [5, 8])
def test_a_quantile_near_the_top_is_bounded_by_the_counts(steps):
    s = torch.linspace(2, 0, 400).double()
    spectrum = jvpsvd.spectral_density(torch.diag(s), steps=steps)
    found = spectrum.quantile(0.99)  # 4 values are larger
    assert found.high >= float(s[4])
    assert found.interval(0.9999)[1] >= float(s[4])
    assert spectrum.count(found.high).high <= 4
    assert spectrum.count(found.low).low >= 4
    assert found.standard_error > 0


def test_nothing_known_of_values_leaves_their_quantile_open():
    A = torch.diag(torch.linspace(2, 0, 400))
    first = jvpsvd.svds(A, 5, method="golub-kahan", tol=1e-3)
    spectrum = jvpsvd.svds(A, 5, method="golub-kahan", start=first).spectrum
    found = spectrum.quantile(0.5)
    assert found.low == 0
    assert found.high >= float(spectrum.values[-1])


def test_intervals_of_few_values_hold_theirs():
    """All values are nodes: only their shares are sampled, and these jump from one to the next."""
    missed = 0
    for seed in range(16, 30):
        generator = torch.Generator().manual_seed(seed)
        s = (2 * torch.rand(20, generator=generator).double()).sort(descending=True).values
        spectrum = jvpsvd.spectral_density(torch.diag(s), steps=20, seed=seed)
        low, high = spectrum.quantile(0.75).interval(0.95)  # 5 values are larger
        missed += not (low <= float(s[4]) + 1e-9 and float(s[5]) - 1e-9 <= high)
    assert missed <= 1


def test_the_interval_of_a_quantile_is_kept_by_copies(tmp_path):
    found = jvpsvd.spectral_density(torch.diag(torch.linspace(2, 0, 50))).quantile(0.5)
    torch.save(found, tmp_path / "quantile")
    again = torch.load(tmp_path / "quantile", weights_only=False)
    assert again == found
    assert again.interval() == found.interval()
