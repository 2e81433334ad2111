"""Estimates beside the laws of random matrices, where no singular value was ever computed."""

import numpy as np
import pytest
import torch

from jvpsvd import aslinearoperator, spectral_density, svds

N = 1200


def gaussian(m, n, seed):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed)) / m**0.5


def marchenko_pastur(x, ratio=0.5):
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    inside = ((high - x).clip(0) * (x - low).clip(0)) ** 0.5
    return inside / (2 * np.pi * ratio * x)


def fuss_catalan(x):
    """The law of squared singular values of a product of two square Gaussian matrices."""
    inside = 27 + 3 * np.sqrt((81 - 12 * x).clip(0))
    top = 2 ** (1 / 3) * inside ** (2 / 3) - 6 * x ** (1 / 3)
    density = 2 ** (1 / 3) * 3**0.5 / (12 * np.pi) * top / (x ** (2 / 3) * inside ** (1 / 3))
    return np.where(x < 27 / 4, density, 0.0)


LAWS = {
    "Marchenko–Pastur": (lambda: aslinearoperator(gaussian(2 * N, N, 0)), marchenko_pastur),
    "Fuss–Catalan": (
        lambda: aslinearoperator(gaussian(N, N, 0)) @ aslinearoperator(gaussian(N, N, 1)),
        fuss_catalan,
    ),
}
METHODS = {
    "svds": lambda A: svds(A, 20, method="golub-kahan").spectrum,
    "density": lambda A: spectral_density(A, 16, 40),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("law", LAWS)
def test_counts_follow_the_law(law, method):
    make, density = LAWS[law]
    spectrum = METHODS[method](make())
    x = np.linspace(1e-9, 7, 700_001)[1:]
    values = density(x)
    for threshold in (0.4, 0.8, 1.0, 1.4, 2.0):
        truth = N * np.trapezoid(np.where(x >= threshold**2, values, 0.0), x)
        low, high = spectrum.count(threshold).interval(0.9999)
        assert low - 2 <= truth <= high + 2  # a matrix of this size follows the law to about 1
