"""Singular values with gradients, against finite differences and the dense SVD's gradient."""

import logging
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from jvpsvd import singular_values
from jvpsvd.errors import ArgumentError, DerivativeError, ModelError

TOL = 1e-12


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


def dense(fn, x):
    """The singular values of the whole Jacobian, with its graph."""
    return torch.linalg.svdvals(torch.autograd.functional.jacobian(fn, x, create_graph=True))


def convolution():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(48, 5)).double()


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (1.0, 2.0, 3.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_are_those_of_the_dense_decomposition(weights, seed):
    net = network(seed)
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    asked = [x, *(p for name, p in net.named_parameters() if name != "2.bias")]
    weights = torch.tensor(weights, dtype=torch.float64)
    found = singular_values(net, x, k=3, tol=TOL)
    assert torch.allclose(found, dense(net, x)[:3], rtol=1e-10)
    ours = torch.autograd.grad(found @ weights, asked)
    truth = torch.autograd.grad(dense(net, x)[:3] @ weights, asked)
    for one, other in zip(ours, truth, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_gradients_are_finite_differences():
    net, step = network(), 1e-6
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(singular_values(net, x, tol=TOL)[0], x)
    direction = torch.randn(6, dtype=torch.float64)
    with torch.no_grad():
        ends = [singular_values(net, x + sign * step * direction, tol=TOL) for sign in (1, -1)]
    difference = float(ends[0] - ends[1]) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(difference, rel=1e-6)


def test_many_points_at_once():
    net = network()
    X = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    found = singular_values(net, X, k=2, batch_dims=1, tol=TOL)
    truth = torch.stack([dense(net, x)[:2] for x in X])
    assert torch.allclose(found, truth, rtol=1e-10)
    for total, other in ((found.sum(), truth.sum()), (found[3, 1], truth[3, 1])):
        (ours,) = torch.autograd.grad(total, X, retain_graph=True)
        (theirs,) = torch.autograd.grad(other, X, retain_graph=True)
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-12)


def test_images_of_a_convolution():
    net, x = convolution(), torch.randn(1, 1, 6, 6, dtype=torch.float64)
    weight = net[0].weight
    (ours,) = torch.autograd.grad(singular_values(net, x, k=2, tol=TOL).sum(), weight)
    J = torch.autograd.functional.jacobian(net, x, create_graph=True).reshape(5, 36)
    (truth,) = torch.autograd.grad(torch.linalg.svdvals(J)[:2].sum(), weight)
    assert torch.allclose(ours, truth, rtol=1e-8)
    assert not x.requires_grad


class Images(nn.Sequential):
    """Takes batches of images only."""

    def __init__(self):
        torch.manual_seed(4)
        layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 5)]
        super().__init__(*layers)
        self[1].running_mean.normal_()
        self[1].running_var.uniform_(0.5, 2.0)


BATCHED = {
    "images": lambda: (Images(), (2, 4, 4)),
    "BatchNorm1d": lambda: (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh()), (6,)),
    "Flatten": lambda: (nn.Sequential(nn.Flatten(), nn.Linear(8, 3), nn.Sigmoid()), (2, 4)),
    "function": lambda: (partial(_called, Images().double().eval()), (2, 4, 4)),
}


def _called(net, x):
    return net(x).tanh()


@pytest.mark.parametrize("kind", BATCHED)
def test_a_network_of_batches_takes_its_own_batch(kind):
    net, shape = BATCHED[kind]()
    net = net.double().eval() if isinstance(net, nn.Module) else net
    X = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)
    owner = net if isinstance(net, nn.Module) else net.args[0]
    asked = [X, *(p for p in owner.parameters() if p.ndim > 1)]
    found = singular_values(net, X, k=2, batch_dims=1, tol=TOL)
    one = lambda z: net(z.reshape(1, *shape))[0]  # noqa: E731
    truth = torch.stack([dense(one, x)[:2] for x in X.flatten(1)])
    assert torch.allclose(found, truth, rtol=1e-10)
    ours = torch.autograd.grad(found.sum(), asked)
    theirs = torch.autograd.grad(truth.sum(), asked)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_a_penalty_trains():
    """Ten steps on (σ₁ − 1)² bring the largest value nearer to 1."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)), torch.randn(8)
    descent = torch.optim.SGD(net.parameters(), lr=0.1)
    distances = []
    for _ in range(10):
        descent.zero_grad()
        penalty = (singular_values(net, x)[0] - 1) ** 2
        penalty.backward()
        descent.step()
        distances.append(float(penalty.detach()))
    assert distances[-1] < 0.3 * distances[0]


def test_the_sum_of_a_cluster_is_differentiable_and_a_line_says_so(caplog):
    A = torch.diag(torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)).requires_grad_()
    with caplog.at_level(logging.WARNING):
        found = singular_values(lambda x: A @ x, torch.ones(3, dtype=torch.float64), k=3, tol=TOL)
    assert "values 0 and 1 lie within" in caplog.text
    (gradient,) = torch.autograd.grad(found[:2].sum(), A)
    assert torch.allclose(gradient, torch.diag(torch.tensor([1.0, 1.0, 0.0])).double(), atol=1e-8)


def test_separate_values_say_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        singular_values(network(), torch.zeros(6, dtype=torch.float64), k=3, tol=TOL)
    assert "lie within" not in caplog.text


def test_a_constant_has_zeros_without_gradients():
    found = singular_values(lambda x: 0.0 * x, torch.ones(3), k=2)
    assert found.tolist() == [0.0, 0.0]


def test_nothing_is_recorded_without_gradients():
    with torch.no_grad():
        assert not singular_values(network(), torch.zeros(6, dtype=torch.float64)).requires_grad


def test_errors_are_ours():
    with pytest.raises(ModelError, match="training mode"):
        singular_values(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), torch.ones(2))
    with pytest.raises(ArgumentError, match="k=5"):
        singular_values(nn.Linear(2, 2), torch.ones(2), k=5)
    with pytest.raises(ArgumentError, match="x"):
        singular_values(nn.Linear(2, 2), [1.0, 2.0])


class Tokens(nn.Module):
    """The positions of an image as tokens."""

    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Attention by torch's fused kernel, which cannot be differentiated twice."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 12)

    def forward(self, x):
        query, key, value = self.project(x).reshape(1, 5, 3, 2, 2).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return attended.transpose(1, 2).reshape(1, 5, 4)


class Outputs(nn.Module):
    """The sequence that a recurrent network returns, without its last state."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)[0]


class HalfAgain(torch.autograd.Function):
    """A custom function of the older style, which torch.func cannot take."""

    @staticmethod
    def forward(ctx, x):
        return 1.5 * x

    @staticmethod
    def backward(ctx, gradient):
        return 1.5 * gradient


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(6, 3)

    def forward(self, x):
        return self.map(HalfAgain.apply(x)).tanh()


NETWORKS = {
    "attention": (Attention, (1, 5, 4)),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        (1, 5, 4),
    ),
    "LSTM": (lambda: Outputs(nn.LSTM(4, 3, batch_first=True)), (1, 5, 4)),
    "group norm, then tokens": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4), Tokens()),
        (1, 4, 3, 3),
    ),
    "ReLU in place": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 4)), (2, 6)),
    "custom function": (Custom, (2, 6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_networks_in_float32(name):
    make, shape = NETWORKS[name]
    torch.manual_seed(3)
    net, x = make().eval(), torch.randn(shape)
    found = singular_values(net, x, k=2, tol=1e-6)
    weights = [p for p in net.parameters() if p.ndim > 1]
    gradients = partial(torch.autograd.grad, allow_unused=True, materialize_grads=True)
    ours = gradients(found.sum(), weights)
    with sdpa_kernel(SDPBackend.MATH):
        exact = net.double()
        J = torch.autograd.functional.jacobian(
            lambda z: exact(z.clone()), x.double(), create_graph=True
        )
        truth = torch.linalg.svdvals(J.reshape(-1, x.numel()))[:2]
        theirs = torch.autograd.grad(
            truth.sum(), weights, allow_unused=True, materialize_grads=True
        )
    assert torch.allclose(found.double(), truth, rtol=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.double(), other, rtol=1e-3, atol=1e-4 * float(truth[0].detach()))


def test_a_value_that_depends_on_weights_alone_has_zeros():
    weight = torch.ones(3, 3, requires_grad=True)
    assert singular_values(lambda x: weight @ torch.ones(3), torch.ones(3), k=2).tolist() == [0, 0]


def _several(z):
    return {"sine": z.sin(), "others": (z**3, z.sum(-1, keepdim=True))}


def _joined(z):
    return torch.cat([z.sin(), z**3, z.sum(-1, keepdim=True)], -1)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_a_function_of_several_values_is_taken_as_by_the_operator(batch_dims):
    x = torch.randn(*(4,) * batch_dims, 6, dtype=torch.float64, requires_grad=True)
    ours, theirs = (
        singular_values(fn, x, k=3, batch_dims=batch_dims, tol=TOL) for fn in (_several, _joined)
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each.sum(), x)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_value_that_is_no_tensor_is_told_as_by_the_operator():
    with pytest.raises(ArgumentError, match=r"holds a leaf torch\.int64"):
        singular_values(lambda x: (x, x.argmax()), torch.ones(2))


def test_a_batch_through_a_custom_function():
    net = Custom().double().eval()
    X = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    found = singular_values(net, X, k=2, batch_dims=1, tol=TOL)
    truth = torch.stack([dense(net, x)[:2] for x in X])
    assert torch.allclose(found, truth, rtol=1e-10)
    asked = [X, net.map.weight]
    theirs = torch.autograd.grad(truth.sum(), asked)
    for one, other in zip(torch.autograd.grad(found.sum(), asked), theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-10)


def test_a_constant_through_a_custom_function_of_the_older_style_has_values_zero():
    weights = torch.randn(3)
    s = singular_values(lambda x: HalfAgain.apply(weights), torch.randn(4), k=2)
    assert s.tolist() == [0.0, 0.0]


def _square_of_gradient(by):
    def value(net, x):
        found = singular_values(net, x, k=2, tol=TOL).sum()
        asked = x if by == "x" else net[0].weight
        return torch.autograd.grad(found, asked, create_graph=True)[0].square().sum()

    return value


@pytest.mark.parametrize("again", ["x", "weight"])
@pytest.mark.parametrize("by", ["x", "weight"])
def test_a_gradient_that_is_differentiated_is_refused(by, again):
    """It holds the singular vectors, so that its own gradient would be wrong in silence."""
    net = network()
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    value = _square_of_gradient(by)(net, x)
    with pytest.raises(DerivativeError, match="first derivatives alone"):
        torch.autograd.grad(value, x if again == "x" else net[0].weight)


def test_a_hessian_is_refused_and_a_graph_of_the_gradient_is_no_harm():
    net = network()
    x = torch.randn(6, dtype=torch.float64)
    with pytest.raises(DerivativeError, match="first derivatives alone"):
        torch.autograd.functional.hessian(lambda z: singular_values(net, z, tol=TOL)[0], x)
    x.requires_grad_()
    plain, with_graph = (
        torch.autograd.grad(singular_values(net, x, tol=TOL)[0], x, create_graph=graph)[0]
        for graph in (False, True)
    )
    assert torch.equal(plain, with_graph.detach())
    by_func = torch.func.grad(lambda z: singular_values(net, z, tol=TOL)[0])(x.detach())
    torch.testing.assert_close(by_func.detach(), plain)


def test_a_gradient_is_differentiated_by_what_it_is_a_multiple_of():
    """A learned weight of the penalty: the singular vectors do not depend on it."""
    net, weight = network(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(singular_values(net, x, tol=TOL)[0], x)
    value = weight * singular_values(net, x, tol=TOL)[0]
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    (found,) = torch.autograd.grad(gradient.sum(), weight)
    torch.testing.assert_close(found, plain.sum())


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_several_tensors_are_the_rows_of_one_jacobian(batch_dims):
    net = network()
    x = torch.randn(*[3] * batch_dims, 6, dtype=torch.float64, requires_grad=True)
    several = lambda x: {"logits": net(x), "norm": (x.square().sum(),)}  # noqa: E731
    one = lambda x: torch.cat([net(x), x.square().sum()[None]])  # noqa: E731
    found, expected = (
        singular_values(fn, x, k=2, batch_dims=batch_dims, tol=TOL) for fn in (several, one)
    )
    torch.testing.assert_close(found, expected)
    asked = [x, net[0].weight]
    ours, truth = (torch.autograd.grad(s.sum(), asked) for s in (found, expected))
    torch.testing.assert_close(ours, truth)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_gradients_by_weights_of_a_scripted_network():
    net, x = network().eval(), torch.randn(6, dtype=torch.float64)
    scripted = torch.jit.script(net)
    for _ in range(3):
        scripted(x)
        found = singular_values(scripted, x, k=2, tol=TOL).sum()
        ours = torch.autograd.grad(found, [dict(scripted.named_parameters())["0.weight"]])[0]
        truth = torch.autograd.grad(dense(net, x)[:2].sum(), [net[0].weight])[0]
        torch.testing.assert_close(ours, truth)
