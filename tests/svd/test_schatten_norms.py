"""Schatten norms of any order: the bounds hold for the sample, and intervals for the truth."""

import math

import pytest
import torch

import jvpsvd
from jvpsvd.operators import aslinearoperator
from jvpsvd.svd.spectral_density import _Recurrence

P = 60
ORDERS = (0.1, 0.5, 1.0, 3.0, 8.0, 12.0, 20.0, 50.0, 200.0)


def spectra(seed=0):
    i = torch.arange(1, P + 1).double()
    u = torch.rand(P, generator=torch.Generator().manual_seed(seed)).double()
    return {
        "line": 2 * i / P,
        "power": 20 / i,
        "exponential": 30 * torch.exp(-8 * i / P),
        "deficient": torch.where(i <= P // 3, 1 + 3 * u, 0.0),
        "one apart": torch.where(i == 1, 5.0, u),
        "two": torch.where(i <= P // 4, 2.0, 0.5),
    }


def norm(values, p, weights=1.0):
    top = float(values.max())
    return top * float((weights * (values / top) ** p).sum()) ** (1 / p)


@pytest.mark.parametrize("kind", spectra())
def test_bounds_hold_for_the_sample_itself(kind):
    for seed in range(5):
        values = spectra(seed)[kind]
        recurrence = _Recurrence(aslinearoperator(torch.diag(values)), 4, seed)
        shares = (recurrence._v**2).mean(-1)
        for steps in range(1, 12):
            recurrence.advance()
            spectrum = recurrence.spectra()[0]
            for p in ORDERS:
                found, sample = spectrum.schatten(p), norm(values, p, P * shares)
                assert found.low <= sample * (1 + 1e-8), (p, steps)
                assert found.high >= sample * (1 - 1e-8), (p, steps)


def solves(A, seed):
    """Yield spectra from few and more steps, without known values and with some."""
    for steps in (2, 4, 8):
        yield jvpsvd.spectral_density(A, steps=steps, seed=seed)
    options = {"method": "golub-kahan", "block_size": 2, "on_unconverged": "ignore"}
    for k, tol in ((1, 0.3), (3, 0.1), (3, 1e-3)):
        yield jvpsvd.svds(A, k, tol=tol, seed=seed, **options).spectrum


@pytest.mark.parametrize("kind", spectra())
def test_intervals_hold_the_truth(kind):
    for seed in range(5):
        values = spectra(seed)[kind]
        for spectrum in solves(torch.diag(values), seed):
            for p in ORDERS[1:]:
                found, truth = spectrum.schatten(p), norm(values, p)
                low, high = found.interval(0.9999)
                assert low <= truth * (1 + 1e-6), (p, spectrum.basis)
                assert high >= truth * (1 - 1e-6), (p, spectrum.basis)
                assert found.high < math.inf


def test_large_powers_are_near_the_largest_value():
    values = spectra()["line"]
    for steps, off in ((3, 0.5), (10, 0.1), (40, 0.01)):
        found = jvpsvd.spectral_density(torch.diag(values), steps=steps).schatten(200)
        assert found.high <= (1 + off) * norm(values, 200)
    solved = jvpsvd.svds(torch.diag(values), 3, method="golub-kahan").spectrum
    assert float(solved.schatten(200)) == pytest.approx(norm(values, 200), rel=1e-3)
