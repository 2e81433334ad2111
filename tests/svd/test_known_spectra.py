"""Networks with singular values from theory."""

import math

import pytest
import torch
from support.svd_problems import orthonormal
from torch import nn

from jvpsvd import JacobianOperator, svds

METHODS = ("golub-kahan", "exact")


def gaussian(rows, cols, generator, variance):
    weights = torch.randn(rows, cols, dtype=torch.float64, generator=generator)
    return weights * math.sqrt(variance / cols)


def chain(weights, activation=lambda z: z):
    def net(x):
        for W in weights[:-1]:
            x = activation(W @ x)
        return weights[-1] @ x

    return net


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_moments_of_a_deep_linear_gaussian_net_are_fuss_catalan(depth):
    N = 240
    generator = torch.Generator().manual_seed(depth)
    weights = [gaussian(N, N, generator, 1.0) for _ in range(depth)]
    J = JacobianOperator(chain(weights), torch.ones(N, dtype=torch.float64))
    squares = svds(J, N, method="exact").s ** 2
    for power in (1, 2):
        expected = math.comb(power * (depth + 1), power) / (power * depth + 1)
        assert float((squares**power).mean()) == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_edge_of_a_deep_linear_gaussian_net(depth):
    N = 500
    generator = torch.Generator().manual_seed(depth)
    weights = [gaussian(N, N, generator, 1.0) for _ in range(depth)]
    J = JacobianOperator(chain(weights), torch.ones(N, dtype=torch.float64))
    result = svds(J, 4, method="golub-kahan")
    edge = (depth + 1) ** (depth + 1) / depth**depth
    assert float(result.s[0]) ** 2 == pytest.approx(edge, rel=0.08)


def test_he_initialised_relu_keeps_norms_on_average():
    """E |J u|² = 1 for hidden layers of variance 2 / n and a linear output of variance 1 / n."""
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(60):
        hidden = [gaussian(80, 80, generator, 2.0) for _ in range(3)]
        weights = [*hidden, gaussian(80, 80, generator, 1.0)]
        x = torch.randn(80, dtype=torch.float64, generator=generator)
        J = JacobianOperator(chain(weights, torch.relu), x, derivatives="transforms")
        shares.append(float((svds(J, 80, method="exact").s ** 2).mean()))
    shares = torch.tensor(shares)
    assert abs(float(shares.mean()) - 1) < 4 * float(shares.std()) / math.sqrt(60)
    assert shares.std() < 0.5


@pytest.mark.parametrize("method", METHODS)
def test_circular_convolution_has_the_values_of_its_frequencies(method):
    size, c_in, c_out = 8, 3, 4
    conv = nn.Conv2d(c_in, c_out, 3, padding=1, padding_mode="circular", bias=False).double()
    weights = torch.randn(
        c_out, c_in, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    conv.weight.data.copy_(weights)
    blocks = torch.fft.fft2(weights, s=(size, size)).permute(2, 3, 0, 1)
    truth = torch.linalg.svdvals(blocks).flatten().sort(descending=True)[0]
    J = JacobianOperator(conv.eval(), torch.zeros(1, c_in, size, size, dtype=torch.float64))
    result = svds(J, 80, tol=1e-10, method=method)
    assert (result.s - truth[:80]).abs().max() < 1e-9
    assert result.converged.all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1, 25, 64])
def test_an_orthogonal_map_has_ones(method, k):
    Q = orthonormal(64, 64, 0)
    J = JacobianOperator(lambda x: Q @ x, torch.zeros(64, dtype=torch.float64))
    result = svds(J, k, tol=1e-10, method=method, block_size=8)
    assert (result.s - 1).abs().max() < 1e-13
    assert result.converged.all()


@pytest.mark.parametrize("method", METHODS)
def test_a_bias_free_relu_net_is_its_jacobian(method):
    generator = torch.Generator().manual_seed(0)
    weights = [gaussian(40, 50, generator, 2.0), gaussian(30, 40, generator, 2.0)]
    x = torch.randn(50, dtype=torch.float64, generator=generator)
    f = chain(weights, torch.relu)
    result = svds(JacobianOperator(f, x), 30, tol=1e-10, method=method)
    assert torch.allclose(result.U @ (result.s * (result.Vh @ x)), f(x))


@pytest.mark.parametrize("method", METHODS)
def test_softmax_forgets_constants(method):
    J = JacobianOperator(lambda x: torch.softmax(x, 0), line_of_logits())
    result = svds(J, 20, method=method)
    constant = torch.full((20,), 1 / math.sqrt(20), dtype=torch.float64)
    assert result.s[-1] < 1e-12
    assert (result.Vh[-1] @ constant).abs() == pytest.approx(1)


def line_of_logits():
    return torch.linspace(0, 1, 20, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_smooth_network_has_the_values_of_its_dense_jacobian(dtype):
    generator = torch.Generator().manual_seed(0)
    weights = [gaussian(90, 70, generator, 1.0), gaussian(60, 90, generator, 1.0)]
    x = torch.randn(70, dtype=torch.float64, generator=generator)
    dense = torch.func.jacrev(chain(weights, torch.tanh))(x)
    net = chain([W.to(dtype) for W in weights], torch.tanh)
    result = svds(JacobianOperator(net, x.to(dtype)), 15, method="golub-kahan")
    tolerance = 30 * torch.finfo(dtype).eps if dtype == torch.float32 else 1e-9
    assert (result.s.double() - torch.linalg.svdvals(dense)[:15]).abs().max() < tolerance
