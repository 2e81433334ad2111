"""Jacobians whose squared entries leave the range of their dtype."""

import numpy as np
import pytest
import torch
from scipy.sparse import linalg

from jvpsvd import JacobianOperator, MatrixOperator, aslinearoperator, svds
from jvpsvd.errors import AdjointError, ArgumentError, NonFiniteError

RANGES = [(torch.float32, 1e-28), (torch.float32, 1e30), (torch.float64, 1e-135)]


def network(c, dtype):
    W = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lambda x: torch.tanh(W.to(dtype) @ x) * c


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
@pytest.mark.parametrize(("dtype", "c"), RANGES)
def test_forward_and_reverse_products_of_any_size_belong_together(dtype, c, derivatives):
    J = JacobianOperator(network(c, dtype), torch.zeros(5, dtype=dtype), derivatives=derivatives)
    one = JacobianOperator(network(1.0, dtype), torch.zeros(5, dtype=dtype))
    assert torch.allclose(svds(J, 3).s / c, svds(one, 3).s, rtol=1e-4)


@pytest.mark.parametrize("c", [1e-28, 1e20])
def test_a_wrong_backward_is_seen_at_any_size(c):
    class Wrong(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return c * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, gradient):
            return 2 * c * gradient

        @staticmethod
        def jvp(ctx, tangent):
            return c * tangent

    with pytest.raises(AdjointError):
        JacobianOperator(Wrong.apply, torch.ones(4))


@pytest.mark.parametrize("c", [1e-200, 1e200])
def test_foreign_products_of_any_size_belong_together(c):
    matrix = np.arange(12.0).reshape(4, 3) * c
    A = linalg.LinearOperator(
        (4, 3), matvec=lambda v: matrix @ v, rmatvec=lambda u: matrix.T @ u, dtype=np.float64
    )
    assert torch.equal(aslinearoperator(A).to_dense(), torch.from_numpy(matrix))


@pytest.mark.parametrize("c", [1e-300, 1e-165, 1.0, 1e155, 1e300])
def test_frobenius_norms(c):
    A = MatrixOperator(torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64) * c)
    assert float(A.fro_norm()) / c == pytest.approx(5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_frobenius_norms_of_the_smallest_numbers(dtype):
    least = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    norm = MatrixOperator(least.expand(2, 2).clone()).fro_norm()
    assert norm.dtype == dtype
    assert float(norm) == 2 * float(least)


def test_frobenius_norms_that_do_not_fit():
    A = MatrixOperator(torch.full((4, 4), 2e38))
    with pytest.raises(ArgumentError, match="exceeds what"):
        A.fro_norm()
    J = JacobianOperator(torch.sqrt, torch.zeros(2), check=False)
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        J.fro_norm()


@pytest.mark.parametrize("c", [1e-60, 1e-46, 1e50])
def test_factors_that_the_dtype_cannot_hold(c):
    A, wide = (
        MatrixOperator(torch.eye(3, dtype=dtype)) for dtype in (torch.float32, torch.float64)
    )
    for scaled in (lambda: c * A, lambda: A * c, lambda: A / c):
        with pytest.raises(ArgumentError, match="use float64"):
            scaled()
    assert svds(c * wide, 1).s.item() == pytest.approx(c)
    assert svds(0 * A, 1).s.item() == 0
