import math

import pytest
import torch
from support.svd_problems import spectrum, with_values

from jvpsvd.svd.krylov.frobenius import estimated_frobenius

M, N = 50, 40


def projected(matrix, exact, count, seed):
    """B of A V = U B for `exact` fixed columns and `count` random ones orthogonal to them."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.eye(N, dtype=torch.float64)[:, :exact]
    fresh = torch.randn(N, count, dtype=torch.float64, generator=generator)
    V = torch.linalg.qr(torch.cat([fixed, fresh], dim=1))[0]
    return torch.linalg.qr(matrix @ V)[1]


@pytest.mark.parametrize("name", ["line", "geometric", "equal", "one huge"])
@pytest.mark.parametrize("exact", [0, 5, 30])
def test_it_has_no_bias_and_knows_its_error(name, exact):
    matrix = with_values(spectrum(name, N), M, N)
    truth = float((matrix**2).sum())
    runs = [estimated_frobenius(projected(matrix, exact, 6, seed), exact, N) for seed in range(400)]
    values, errors = (torch.stack(part) for part in zip(*runs, strict=True))
    mean_error = float(values.std()) / math.sqrt(400)
    assert abs(float(values.mean()) - truth) <= 4 * mean_error + 1e-9 * truth
    if name != "equal":  # for which every sample is the same
        assert (
            0.5 * float(values.std()) < float((errors**2).mean().sqrt()) < 2 * float(values.std())
        )


@pytest.mark.parametrize("exact", [0, 10, 39])
def test_all_columns_are_exact(exact):
    matrix = with_values(spectrum("line", N), M, N)
    value, error = estimated_frobenius(projected(matrix, exact, N - exact, 0), exact, N)
    assert float(value) == pytest.approx(float((matrix**2).sum()))
    assert float(error) == 0


def test_one_sample_does_not_know_its_error():
    matrix = with_values(spectrum("line", N), M, N)
    value, error = estimated_frobenius(projected(matrix, 5, 1, 0), 5, N)
    assert math.isfinite(float(value))
    assert math.isinf(float(error))


def test_each_matrix_of_a_batch_has_its_own():
    matrices = [with_values(spectrum(name, N), M, N) for name in ("line", "one huge")]
    parts = torch.stack([projected(matrix, 3, 8, 1) for matrix in matrices])
    values, errors = estimated_frobenius(parts, 3, N)
    assert values.shape == errors.shape == (2,)
    for i in range(2):
        value, error = estimated_frobenius(parts[i], 3, N)
        torch.testing.assert_close(values[i], value)
        torch.testing.assert_close(errors[i], error)
