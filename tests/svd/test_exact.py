import pytest
import torch
from svd_problems import SPECTRA, assert_truthful, orthonormal, spectrum, with_values

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.exact import Exact

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(50, 30), (30, 50)])
@pytest.mark.parametrize("name", SPECTRA)
def test_all_values_to_rounding(name, shape, dtype):
    s = spectrum(name, 30)
    result = svds(with_values(s, *shape).to(dtype), 30, method="exact")
    assert (result.s.double() - s).abs().max() <= 30 * torch.finfo(dtype).eps * s[0]
    assert result.converged.all()


@pytest.mark.parametrize("shape", [(70, 30), (30, 70), (1, 9), (9, 1)])
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_it_spends_the_shorter_side(shape, block_size):
    A = MatrixOperator(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))
    result = svds(A, 1, method="exact", block_size=block_size)
    mixtures = 2
    short = min(shape)
    expected = (short, 0) if shape[0] >= shape[1] else (0, short)
    assert tuple(result.products) == (expected[0] + mixtures, expected[1] + mixtures)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["geometric", "low rank", "equal", "one huge"])
def test_matrices_too_large_for_one_decomposition(name, dtype):
    """Float32 goes through a float64 Gram matrix, float64 through QR."""
    m, n = 21000, 210
    s = spectrum(name, n)
    matrix = (orthonormal(m, n, 1) * s @ orthonormal(n, n, 2).T).to(dtype)
    result = svds(matrix, n, method="exact")
    assert_truthful(result, s, (m, n))
    assert result.converged.all()
    assert result.certificate.orthonormality < 1e-5
    assert result.residuals.max() <= 1e-6 * s[0]


def test_small_values_of_float32_survive():
    """A float32 Gram matrix would lose all values under 3e-4 s₁."""
    s = torch.logspace(0, -6, 210, dtype=torch.float64)
    matrix = (orthonormal(21000, 210, 1) * s @ orthonormal(210, 210, 2).T).float()
    result = svds(matrix, 210, method="exact")
    assert (result.s.double() - s).abs().max() < 1e-7


def test_the_norm_is_exact():
    matrix = torch.randn(40, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (known,) = Exact().solve(MatrixOperator(matrix), 3, 1e-5, lambda look: None).known
    assert known.fro2 == pytest.approx(float((matrix**2).sum()), rel=1e-12)
    assert known.fro2_error == 0
