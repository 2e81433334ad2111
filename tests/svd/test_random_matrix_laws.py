"""Estimates beside the laws of random matrices, where no singular value was ever computed."""

import pytest

from benchmarks.problems.random_matrices import LAWS
from jvpsvd import spectral_density, svds

METHODS = {
    "svds": lambda A: svds(A, 20, method="golub-kahan").spectrum,
    "density": lambda A: spectral_density(A, 16, 40),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("law", LAWS)
def test_counts_follow_the_law(law, method):
    n = 1200
    matrix = LAWS[law](n, 0)
    spectrum = METHODS[method](matrix.operator)
    for threshold in (0.4, 0.8, 1.0, 1.4, 2.0):
        low, high = spectrum.count(threshold).interval(0.9999)
        # A matrix of this size follows the law to about 1.
        assert low - 2 <= n * matrix.share_above(threshold) <= high + 2


def test_counts_of_a_matrix_that_would_take_64_gib():
    n = 1 << 17
    matrix = LAWS["half of a rotation"](n, 0)
    counts = spectral_density(matrix.operator, 8, 30)
    for threshold in (0.1, 0.5, 0.9, 0.99):
        low, high = counts.count(threshold).interval(0.9999)
        assert low - 2 <= n * matrix.share_above(threshold) <= high + 2
        assert high - low < n / 10
