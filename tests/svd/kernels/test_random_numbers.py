import pytest
import torch

from jvpsvd import spectral_density, svds
from jvpsvd.svd.kernels.random_numbers import seeded_generator


@pytest.mark.parametrize("method", ["golub-kahan", "randomized"])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_start_is_no_function_of_a_matrix_from_the_same_seed(seed, method):
    A = torch.randn(800, 400, generator=torch.Generator().manual_seed(seed))
    certificate = svds(A, 5, method=method, seed=seed, on_unconverged="ignore").certificate
    truth = float((A.double() ** 2).sum())
    assert abs(certificate.fro2 - truth) < 5 * certificate.fro2_error + 1e-6 * truth
    found = spectral_density(A, 8, 10, seed=seed).schatten(2)
    assert abs(found.value - truth**0.5) < 5 * found.standard_error


def test_seeds_differ_and_repeat():
    one, two, three = (torch.randn(5, generator=seeded_generator(i)) for i in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
