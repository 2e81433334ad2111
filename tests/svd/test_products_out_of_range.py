"""Products that are too large or too small for the dtype are refused, never taken as numbers."""

from contextlib import nullcontext

import pytest
import torch
from support.svd_problems import assert_truthful, line, with_values

from jvpsvd import JacobianOperator, spectral_density, svds
from jvpsvd.errors import ArgumentError, JvpsvdError

METHODS = ("golub-kahan", "exact", "randomized")


def vanishing_chain(dtype):
    """A network whose layers each divide by 1e8: its Jacobian is 1e-56 times an orthogonal one."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q.to(dtype)
        for _ in range(7)
    ]

    def network(x):
        for layer in layers:
            x = 1e-8 * (layer @ x)
        return x + 1.0

    return JacobianOperator(network, torch.zeros(12, dtype=dtype))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("vectors", [True, False])
def test_vanishing_derivatives_are_not_zero(method, vectors):
    with pytest.raises(ArgumentError, match="use float64"):
        svds(vanishing_chain(torch.float32), 3, method=method, vectors=vectors)
    wide = svds(vanishing_chain(torch.float64), 3, method=method, vectors=vectors)
    assert (wide.s / 1e-56 - 1).abs().max() < 1e-9


def test_a_density_of_vanishing_derivatives_is_refused():
    with pytest.raises(ArgumentError, match="use float64"):
        spectral_density(vanishing_chain(torch.float32), probes=2)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-45), (torch.float64, 5e-324)])
@pytest.mark.parametrize("shape", [(1, 2), (30, 7), (7, 30), (2, 20, 9)])
def test_products_that_underflow_are_refused(shape, dtype, least, method):
    matrix = torch.full(shape, least, dtype=dtype)
    with pytest.raises(ArgumentError, match="nearer 1"):
        svds(matrix, 1, method=method, on_unconverged="ignore")


@pytest.mark.parametrize("method", METHODS)
def test_one_tiny_matrix_of_a_batch_is_refused_and_one_of_zeros_is_not(method):
    batch = torch.zeros(3, 20, 12)
    batch[0] = with_values(line(1, 0.5, 12), 20, 12).float()
    found = svds(batch, 2, method=method, on_unconverged="ignore")
    assert found.s[1:].eq(0).all()
    batch[2, 3, 4] = 1e-45
    with pytest.raises(ArgumentError, match="operator 2 of 3: products"):
        svds(batch, 2, method=method, on_unconverged="ignore")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-40, 1e38])
def test_the_matrix_of_a_batch_whose_products_are_out_of_range_is_named(scale, method):
    batch = with_values(line(1, 0.5, 12), 20, 12).float().repeat(3, 1, 1)
    batch[1] *= scale
    with pytest.raises(ArgumentError, match="operator 1 of 3: products of about"):
        svds(batch, 2, method=method)


def test_zeros_take_one_product_more():
    found = svds(torch.zeros(30, 20), 5, method="exact")
    assert found.products.forward == 20 + 2 + 1


@pytest.mark.parametrize("block_size", [1, 2, 8])
@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("share", [0.003, 0.03, 0.4, 0.6, 0.8, 1.0])
def test_near_the_largest_number_values_are_right_or_refused(share, started, block_size):
    generator = torch.Generator().manual_seed(int(1000 * share) + block_size)
    matrix = torch.randn(11, 38, generator=generator, dtype=torch.float64)
    matrix = (matrix / matrix.abs().max() * share * torch.finfo(torch.float32).max).float()
    start = torch.linalg.svd(matrix.double())[0][:, :1].float() if started else None
    expected = (
        pytest.raises(JvpsvdError, match=r"nearer 1|holds NaN") if share > 0.1 else nullcontext()
    )
    with expected:
        found = svds(matrix, 1, method="golub-kahan", start=start, block_size=block_size)
        assert_truthful(found, torch.linalg.svdvals(matrix.double()), matrix.shape)


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("kind", ["ones", "signs"])
@pytest.mark.parametrize("shape", [(20824, 36), (36, 20824), (2, 8000, 36), (300, 200)])
def test_the_exact_method_refuses_values_that_do_not_fit(shape, kind, vectors):
    """Each entry and each column is a float32 number, and sigma_1 is not."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in shape[-2:])
    signs = (left[:, None] * right).sign().expand(shape)
    matrix = (torch.ones(shape) if kind == "ones" else signs).double()
    largest = 8e37 / max(shape[-2:]) ** 0.5  # columns of norm 8e37, sigma_1 = 5e38 and more
    with pytest.raises(ArgumentError, match="nearer 1"):
        svds((matrix * largest).float(), 3, method="exact", vectors=vectors)
