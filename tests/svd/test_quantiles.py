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
