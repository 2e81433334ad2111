"""Products pass gradients to the vectors, as those of a matrix do."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

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


TRANSFORMS = {
    "vmap": lambda A, V: vmap(lambda v: A @ v)(V),
    "vmap of columns": lambda A, V: vmap(lambda v: A @ v, in_dims=1)(V.T),
    "vmap of blocks": lambda A, V: vmap(lambda v: A @ v)(V.reshape(2, 3, 6).mT),
    "vmap of vmap": lambda A, V: vmap(vmap(lambda v: A @ v))(V.reshape(2, 3, 6)),
    "grad": lambda A, V: grad(lambda v: (A @ v).pow(3).sum())(V[0]),
    "grad of vmap": lambda A, V: grad(lambda V: vmap(lambda v: A @ v)(V).pow(3).sum())(V),
    "vmap of grad": lambda A, V: vmap(grad(lambda v: (A @ v).pow(3).sum()))(V),
    "jvp": lambda A, V: jvp(lambda v: (A @ v).square(), (V[0],), (V[1],))[1],
    "jvp of grad": lambda A, V: jvp(grad(lambda v: (A @ v).pow(3).sum()), (V[0],), (V[1],))[1],
    "hessian": lambda A, V: hessian(lambda v: (A @ v).pow(3).sum())(V[0]),
    "jacfwd": lambda A, V: jacfwd(lambda v: (A @ v).square())(V[0]),
    "jacrev": lambda A, V: jacrev(lambda v: (A @ v).square())(V[0]),
}


@pytest.mark.parametrize("derivatives", DERIVATIVES)
@pytest.mark.parametrize("kind", ["jacobian", "transpose", "combination"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_those_of_a_matrix(name, kind, derivatives):
    A, matrix = operators(derivatives)[kind]
    V = torch.randn(6, 6, dtype=torch.float64)
    if kind == "transpose":
        A, matrix = A.T, matrix.T
    assert torch.allclose(TRANSFORMS[name](A, V), TRANSFORMS[name](matrix, V), rtol=1e-10)


@pytest.mark.parametrize("derivatives", DERIVATIVES)
def test_second_derivatives_are_those_of_a_matrix(derivatives):
    A = operators(derivatives)["jacobian"][0]
    v = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(A.matvec, v)
    assert torch.autograd.gradgradcheck(lambda v: A.matvec(v).square(), v)


def test_gradients_pass_through_vmap_and_dual_numbers():
    A = MatrixOperator(torch.randn(4, 6, dtype=torch.float64))
    V = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    vmap(lambda v: A @ v)(V).square().sum().backward()
    assert torch.allclose(V.grad, 2 * (V.detach() @ A.matrix.T) @ A.matrix)
    with forward_ad.dual_level():
        image = A @ forward_ad.make_dual(V.detach()[0], V.detach()[1])
        assert torch.allclose(forward_ad.unpack_dual(image).tangent, A.matrix @ V.detach()[1])


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
