"""Products that round more than their matrix: f loses digits, and so do its derivatives."""

import pytest
import torch
from support.svd_problems import line, with_values
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, svds
from jvpsvd.errors import ConvergenceWarning

METHODS = pytest.mark.parametrize("method", ["exact", "golub-kahan"])


def far_from_zero(count, offset):
    generator = torch.Generator().manual_seed(0)
    return offset + torch.randn(count, 12, dtype=torch.float64, generator=generator)


def values_near_zero(x):
    """Layer normalisation does not change when its argument is shifted."""
    centred = x - x.mean()
    return torch.linalg.svdvals(torch.func.jacrev(nn.LayerNorm(12).double())(centred).detach())


@METHODS
@pytest.mark.parametrize("k", [1, 3, 12])
@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8])
def test_layer_norm_far_from_zero(method, k, offset):
    (x,) = far_from_zero(1, offset)
    result = svds(JacobianOperator(nn.LayerNorm(12).double(), x), k, method=method)
    assert result.certificate.sound
    assert result.converged.all()
    error = (result.s - values_near_zero(x)[:k]).abs()
    assert (error <= 1e-15 * offset).all()
    # The residuals include the lost digits; those of the matrix alone would be 1e-16.
    assert (result.residuals >= 0.1 * torch.finfo(torch.float64).eps * offset**0.5).all()
    assert (result.residuals <= 1e-14 * offset).all()


def test_many_points_far_from_zero():
    X = far_from_zero(3, 1e6)
    X[1] -= 1e6
    result = svds(JacobianOperator(nn.LayerNorm(12).double(), X, batch_dims=1), 12, method="exact")
    assert all(certificate.sound for certificate in result.certificates)
    assert result.converged.all()
    expected = torch.stack([values_near_zero(x) for x in X])
    assert (result.s - expected).abs().max() < 1e-9


class Rounding(MatrixOperator):
    """A matrix whose products have a random relative error, different in each call."""

    def __init__(self, matrix, share):
        super().__init__(matrix)
        self.share, self.generator = share, torch.Generator().manual_seed(0)

    def _off(self, image):
        noise = torch.randn(image.shape, dtype=image.dtype, generator=self.generator)
        return image * (1 + self.share * noise)

    def _matmat(self, V):
        return self._off(super()._matmat(V))

    def _rmatmat(self, U):
        return self._off(super()._rmatmat(U))


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("shape", [(3000, 30), (30, 3000), (40, 30)])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 2e-5), (torch.float64, 1e-6)])
@pytest.mark.parametrize("method", ["exact", "golub-kahan"])
def test_what_is_said_of_products_that_round(method, shape, dtype, share, vectors):
    s = line(2, 0.5, 30)
    A = Rounding(with_values(s, *shape).to(dtype), share)
    result = svds(A, 10, method=method, tol=10 * share, vectors=vectors)
    assert result.certificate.sound
    assert result.converged.all()
    assert ((result.s.double() - s[:10]).abs() <= result.residuals.double()).all()
    assert result.residuals.min() > 0.1 * share


@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.5])
def test_products_that_round_more_than_the_tolerance_never_converge(share):
    A = Rounding(with_values(line(2, 0.5, 30), 60, 30), share)
    with pytest.warns(ConvergenceWarning):
        result = svds(A, 10, method="exact")
    assert not result.converged.any()


def test_a_matrix_costs_no_product_more():
    A = MatrixOperator(with_values(line(2, 0.5, 30), 60, 30))
    assert tuple(svds(A, 10, method="exact").products) == (30 + 2, 2)
