"""Functions that are gradients themselves, such as the score of an energy."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import AdjointError

WAYS = pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])


def energy(net):
    return lambda x: (net(x) ** 2).sum() + (x**4).sum() / 4


def plain(x, of):
    return torch.autograd.grad(of(x), x, create_graph=True)[0]


def enabling(x, of):
    with torch.enable_grad():
        return plain(x, of)


def in_place(x, of):
    x.requires_grad_()
    return plain(x, of)


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype).eval()


def hessian(x):
    return torch.func.hessian(energy(network(torch.float64)))(x.double())


def check(J, expected):
    m, n = J.shape
    forward, reverse = J @ torch.eye(n), J.T @ torch.eye(m)
    torch.testing.assert_close(forward.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(reverse.double(), expected.T, atol=1e-5, rtol=1e-5)


@WAYS
def test_the_jacobian_of_a_score_is_the_hessian_of_its_energy(derivatives):
    net, x = network(), torch.linspace(-1, 1, 5)
    J = JacobianOperator(lambda z: plain(z, energy(net)), x, derivatives=derivatives)
    check(J, hessian(x))
    assert not x.requires_grad
    torch.testing.assert_close(J.value, plain(x.clone().requires_grad_(), energy(net)).detach())


@WAYS
def test_at_many_points(derivatives):
    net, X = network(), torch.linspace(-1, 1, 15).reshape(3, 5)
    score = lambda z: plain(z, energy(net))  # noqa: E731
    J = JacobianOperator(score, X, batch_dims=1, derivatives=derivatives)
    images = J @ torch.eye(5)
    for image, x in zip(images, X, strict=True):
        torch.testing.assert_close(image.double(), hessian(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", [enabling, in_place])
@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_where_the_score_asks_for_gradients_itself(score, derivatives):
    net, x = network(), torch.linspace(-1, 1, 5)
    J = JacobianOperator(lambda z: score(z, energy(net)), x, derivatives=derivatives)
    check(J, hessian(x))
    assert not x.requires_grad


def test_by_parameters():
    net, x = network(), torch.linspace(-1, 1, 5)

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, z):
            with torch.enable_grad():
                return plain(z.clone().requires_grad_(), lambda y: self.net(y).sum())

    J = JacobianOperator.wrt_parameters(Slope().eval(), x, names=["net.2.weight"])
    # d/dx of sum W2 tanh(W1 x + b) by W2: each row of W2 enters in the same way.
    inner = torch.func.jacrev(lambda z: torch.tanh(net[0](z)))(x)
    expected = inner.T.repeat(1, 3)
    torch.testing.assert_close(J @ torch.eye(21), expected, atol=1e-5, rtol=1e-5)


@WAYS
def test_a_gradient_without_a_graph_is_refused_by_name(derivatives):
    with pytest.raises(AdjointError, match=r"autograd\.grad without create_graph=True"):
        JacobianOperator(
            lambda x: torch.autograd.grad((x**4).sum(), x)[0],
            torch.ones(3),
            derivatives=derivatives,
        )


def test_other_errors_of_the_function_are_its_own():
    def fails(x):
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        JacobianOperator(fails, torch.ones(3))
