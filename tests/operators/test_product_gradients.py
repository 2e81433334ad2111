"""Products pass gradients to the vectors, as those of a matrix do."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, svds

DERIVATIVES = ("auto", "trace", "transforms")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def operators(derivatives):
    """Return operators and their matrices, single ones and batches, and combinations."""
    net, x = network(), torch.randn(3, 6, dtype=torch.float64)
    J = JacobianOperator(net, x[0], derivatives=derivatives)
    batch = JacobianOperator(net, x, batch_dims=1, derivatives=derivatives)
    D = torch.func.vmap(torch.func.jacrev(net))(x).detach()
    A = MatrixOperator(D[1])
    return {
        "jacobian": (J, D[0]),
        "batch": (batch, D),
        "transpose": (J.T, D[0].T),
        "combination": (2 * A.T @ (J - A), 2 * D[1].T @ (D[0] - D[1])),
    }


@pytest.mark.parametrize("derivatives", DERIVATIVES)
@pytest.mark.parametrize("kind", ["jacobian", "batch", "transpose", "combination"])
@pytest.mark.parametrize("width", [None, 3])
def test_gradients_are_those_of_a_matrix(kind, derivatives, width):
    A, matrix = operators(derivatives)[kind]
    shape = (A.shape[-1],) if width is None else (A.shape[-1], width)
    v = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def loss(A):
        return (A @ v).square().sum() * 10 - v.square().sum()

    (ours,), (theirs,) = (torch.autograd.grad(loss(one), v) for one in (A, matrix))
    assert torch.allclose(ours, theirs, rtol=1e-12)


@pytest.mark.parametrize("derivatives", DERIVATIVES)
def test_second_derivatives_and_transforms_are_those_of_a_matrix(derivatives):
    A, matrix = operators(derivatives)["jacobian"]
    v = torch.randn(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(A.matvec, v.clone().requires_grad_())
    assert torch.autograd.gradgradcheck(lambda v: A.matvec(v).square(), v.clone().requires_grad_())
    ours, theirs = (
        torch.func.grad(lambda v, A=one: (A @ v).pow(3).sum())(v) for one in (A, matrix)
    )
    assert torch.allclose(ours, theirs, rtol=1e-12)


def test_backward_products_are_counted():
    A = MatrixOperator(torch.ones(3, 2))
    (A @ torch.ones(2, 5, requires_grad=True)).sum().backward()
    assert A.products == (5, 5)


def test_nothing_passes_to_weights_and_without_grad_mode():
    net = network()
    J = JacobianOperator(net, torch.ones(6).double())
    assert not (J @ torch.ones(6).double()).requires_grad
    v = torch.ones(6, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        assert not (J @ v).requires_grad
    (J @ v).sum().backward()
    assert all(weight.grad is None for weight in net.parameters())
    assert not svds(J, 2).s.requires_grad
