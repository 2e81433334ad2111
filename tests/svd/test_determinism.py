import pytest
import torch
from support.svd_problems import spectrum, with_values

from jvpsvd import svds

METHODS = ("golub-kahan", "exact")
DTYPES = (torch.float32, torch.float64)
NAMES = ("harmonic", "low rank", "equal")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_one_seed_is_one_result(name, method, dtype):
    matrix = with_values(spectrum(name, 60), 60, 80).to(dtype)
    torch.manual_seed(1)
    one = svds(matrix, 30, method=method, seed=4)
    torch.manual_seed(2)
    two = svds(matrix, 30, method=method, seed=4)
    for part in ("U", "s", "Vh", "residuals", "converged"):
        assert torch.equal(getattr(one, part), getattr(two, part))
    assert one.products == two.products
    assert one.certificate == two.certificate


def test_another_seed_starts_elsewhere_and_ends_at_the_same_values():
    matrix = with_values(spectrum("harmonic", 200), 200, 200)
    one, two = (svds(matrix, 10, tol=1e-9, method="golub-kahan", seed=seed) for seed in (0, 1))
    assert not torch.equal(one.U, two.U)
    assert torch.allclose(one.s, two.s, rtol=0, atol=1e-12)
    assert torch.allclose(one.U, two.U, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_global_generator_is_left_alone(method):
    matrix = with_values(spectrum("low rank", 40), 40, 50)
    before = torch.random.get_rng_state()
    svds(matrix, 20, method=method)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(50, 40), (40, 50)])
@pytest.mark.parametrize("method", METHODS)
def test_the_largest_entry_of_every_right_vector_is_positive(method, shape):
    matrix = with_values(spectrum("harmonic", 40), *shape)
    result = svds(matrix, 20, method=method)
    Vh = result.Vh
    assert (Vh.gather(1, Vh.abs().argmax(dim=1, keepdim=True)) > 0).all()
    assert ((matrix @ Vh.T) * result.U).sum(dim=0).min() > 0


def test_both_methods_agree_on_the_signs():
    matrix = with_values(spectrum("harmonic", 60), 80, 60)
    one, two = (svds(matrix, 10, tol=1e-9, method=method) for method in METHODS)
    assert torch.allclose(one.Vh, two.Vh, atol=1e-5)
    assert torch.allclose(one.U, two.U, atol=1e-5)


def test_the_input_is_not_changed():
    matrix = with_values(spectrum("harmonic", 30), 30, 30)
    copy = matrix.clone()
    for method in METHODS:
        svds(matrix, 30, method=method)
    assert torch.equal(matrix, copy)
