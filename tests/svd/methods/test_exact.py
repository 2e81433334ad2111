from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support.svd_problems import (
    SPECTRA,
    assert_truthful,
    orthonormal,
    solved_by,
    spectrum,
    with_values,
)
from support.thinned import thinned

from jvpsvd import MatrixOperator, svds
from jvpsvd.svd.methods.exact import Exact, one_sided_residuals

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
    combinations = 2
    short = min(shape)
    expected = (short, 0) if shape[0] >= shape[1] else (0, short)
    assert tuple(result.products) == (expected[0] + combinations, expected[1] + combinations)


@thinned("name, dtype", ["geometric", "low rank", "equal", "one huge"], DTYPES, keep=2)
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


@pytest.mark.parametrize("least", [0.0, -3.9, -4.1, -7.0])
@pytest.mark.parametrize("count", [None, 5])
@pytest.mark.parametrize("vectors", [True, False])
def test_tall_matrices_of_few_entries_keep_small_values(vectors, count, least):
    """Through their Gram matrix while no value is small, else by a decomposition in float64."""
    s = torch.logspace(0, least, 12, dtype=torch.float64)
    matrix = (orthonormal(900, 12, 1) * s @ orthonormal(12, 12, 2).T).float()
    matrices = matrix if count is None else torch.stack([matrix, *torch.randn(count - 1, 900, 12)])
    result = svds(matrices, 12, method="exact", vectors=vectors)
    exact = torch.linalg.svdvals(matrices.double())
    assert ((result.s.double() - exact).abs() <= 1e-7 * exact).all()
    assert result.converged.all()
    assert result.certificate.sound


def test_the_norm_is_exact():
    matrix = torch.randn(40, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (evidence,) = solved_by(Exact(), MatrixOperator(matrix), 3, 1e-5).evidence
    assert evidence.fro2 == pytest.approx(float((matrix**2).sum()), rel=1e-12)
    assert evidence.fro2_error == 0


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("shape", [(280, 260), (260, 280)])
def test_values_alone_are_those_with_vectors(name, shape):
    """Large enough for the Gram matrix, from which residuals are then computed."""
    s = spectrum(name, min(shape))
    A = MatrixOperator(with_values(s, *shape).float())
    whole, alone = (svds(A, 260, method="exact", vectors=v, tol=1e-6) for v in (True, False))
    assert torch.equal(whole.s, alone.s)
    assert alone.U is None
    assert alone.Vh is None
    assert alone.converged.all()
    assert alone.certificate.sound
    assert (alone.s.double() - s).abs().max() <= alone.residuals.max() + 3e-7 * s[0]


def test_one_sided_residuals_are_those_of_wrong_vectors():
    """Values and vectors that are wrong by a known amount show it."""
    s = torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    gram = torch.diag(s**2)
    angle = torch.tensor(0.1, dtype=torch.float64)
    turned = torch.eye(3, dtype=torch.float64)
    turned[:2, :2] = torch.stack(
        [torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])]
    )
    A = torch.diag(s)
    images = A @ turned
    norms = images.norm(dim=0)
    u = images / norms
    expected = torch.maximum((images - s * u).norm(dim=0), (A.T @ u - s * turned).norm(dim=0))
    assert torch.allclose(one_sided_residuals(gram.tril(), s, turned), expected)
    assert one_sided_residuals(gram.tril(), s, torch.eye(3).double()).max() < 1e-15


@pytest.mark.parametrize("threads", [1, 2])
def test_small_matrices_of_a_batch_are_solved_several_at_a_time(threads):
    before = torch.get_num_threads()
    matrices = torch.randn(11, 9000, 10, generator=torch.Generator().manual_seed(0))
    try:
        torch.set_num_threads(threads)
        batch = svds(MatrixOperator(matrices), 10, method="exact")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for index, matrix in enumerate(matrices):
        one = svds(matrix, 10, method="exact")
        torch.testing.assert_close(batch.s[index], one.s)
        torch.testing.assert_close(batch.U[index], one.U, rtol=0, atol=1e-5)
        assert batch.certificates[index].fro2 == pytest.approx(one.certificate.fro2, rel=1e-12)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("vectors", [True, False])
def test_a_batch_is_divided_among_threads_and_leaves_them_as_they_were(count, vectors):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        generator = torch.Generator().manual_seed(0)
        matrices = torch.randn(count, 270, 265, generator=generator)
        batch = svds(MatrixOperator(matrices), 10, method="exact", vectors=vectors)
        assert torch.get_num_threads() == 2
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 2
        assert torch.allclose(batch.s, torch.linalg.svdvals(matrices.double())[:, :10].float())
    finally:
        torch.set_num_threads(threads)
