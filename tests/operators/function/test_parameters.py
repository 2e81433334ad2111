"""∂f/∂θ at the parameters of a model, in the order and under the names the model gives them."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError, ModelError

EVERY_WAY = pytest.mark.parametrize("derivatives", ["trace", "transforms"])


class Tied(nn.Module):
    """A decoder that shares the weight of its encoder."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.up.weight = self.down.weight

    def forward(self, x):
        return self.up(self.down(x).tanh())


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), (5, 3)


def convnet():
    norm = nn.BatchNorm2d(3)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), norm, nn.SiLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    return net, (2, 2, 4, 4)


def tied():
    return Tied(), (2, 3)


MODELS = [mlp, convnet, tied]


def built(build, dtype=torch.float64):
    torch.manual_seed(0)
    net, shape = build()
    return net.to(dtype).eval(), torch.randn(shape, dtype=dtype)


def truth(net, x, names=None):
    """The dense Jacobian, and the names of its columns."""
    theta = {k: p.detach() for k, p in net.named_parameters() if names is None or k in names}
    blocks = jacrev(lambda values: functional_call(net, values, (x,)).flatten())(theta)
    m = net(x).numel()
    return torch.cat([block.reshape(m, -1) for block in blocks.values()], dim=1).detach()


@EVERY_WAY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("build", MODELS)
def test_products_equal_the_dense_jacobian(build, dtype, derivatives, eye):
    net, x = built(build, dtype)
    expected = truth(net, x)
    J = JacobianOperator.wrt_parameters(net, x, derivatives=derivatives)
    m, n = J.shape
    assert (m, n) == tuple(expected.shape)
    assert n == sum(p.numel() for p in net.parameters())
    scale = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype] * expected.abs().max()
    assert (J @ eye(n, dtype) - expected).abs().max() < scale
    assert (J.T @ eye(m, dtype) - expected.T).abs().max() < scale
    torch.testing.assert_close(J.value, net(x).detach())


@pytest.mark.parametrize("build", MODELS)
def test_the_product_with_its_transpose_is_the_empirical_tangent_kernel(build, eye):
    net, x = built(build)
    expected = truth(net, x)
    J = JacobianOperator.wrt_parameters(net, x)
    kernel = (J @ J.T) @ eye(J.shape[0], x.dtype)
    torch.testing.assert_close(kernel, expected @ expected.T)


@pytest.mark.parametrize("build", MODELS)
def test_the_singular_values_are_those_of_the_dense_jacobian(build):
    net, x = built(build)
    J = JacobianOperator.wrt_parameters(net, x)
    expected = torch.linalg.svdvals(truth(net, x))[:3]
    torch.testing.assert_close(svds(J, 3).s, expected)


@pytest.mark.parametrize("build", MODELS)
def test_columns_follow_named_parameters_and_as_input_names_them(build):
    net, x = built(build)
    J = JacobianOperator.wrt_parameters(net, x)
    own = dict(net.named_parameters())
    theta = J.as_input(J.point)
    assert list(theta) == list(own)
    assert all(torch.equal(theta[name], own[name]) for name in own)
    gradients = J.as_input(J.T @ torch.eye(J.shape[0], dtype=x.dtype)[:, :2])
    assert all(gradients[name].shape == (2, *own[name].shape) for name in own)


@pytest.mark.parametrize("build", MODELS)
def test_a_gradient_by_backward_is_a_reverse_product(build):
    net, x = built(build)
    J = JacobianOperator.wrt_parameters(net, x)
    gradients = J.as_input(J.T @ torch.ones(J.shape[0], dtype=x.dtype))
    net(x).sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


@EVERY_WAY
@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["2.weight"], ["2.weight"]),
        (("0.weight", "2.bias"), ["0.weight", "2.bias"]),
        (["0.bias", "0.bias"], ["0.bias"]),
    ],
    ids=["one", "two", "twice"],
)
def test_only_the_parameters_named_are_differentiated(names, columns, derivatives, eye):
    net, x = built(mlp)
    J = JacobianOperator.wrt_parameters(net, x, names=iter(names), derivatives=derivatives)
    expected = truth(net, x, columns)
    assert list(J.as_input(J.point)) == columns
    torch.testing.assert_close(J @ eye(J.shape[1], x.dtype), expected)


def test_names_in_another_order_give_columns_in_the_order_of_the_model():
    net, x = built(mlp)
    J = JacobianOperator.wrt_parameters(net, x, names=["2.bias", "0.weight"])
    assert list(J.as_input(J.point)) == ["0.weight", "2.bias"]


def test_args_kwargs_and_a_point_that_is_no_tensor(eye):
    class Weighted(nn.Linear):
        def forward(self, x, power, *, shift):
            return super().forward(x["a"]) ** power + shift

    torch.manual_seed(0)
    net, x = Weighted(3, 2).double().eval(), {"a": torch.randn(2, 3).double(), "unused": None}
    J = JacobianOperator.wrt_parameters(net, x, args=(2,), kwargs={"shift": 1.0})
    theta = dict(net.named_parameters())
    blocks = jacrev(lambda values: functional_call(net, values, (x, 2), {"shift": 1.0}).flatten())(
        {name: p.detach() for name, p in theta.items()}
    )
    expected = torch.cat([block.reshape(4, -1) for block in blocks.values()], dim=1).detach()
    torch.testing.assert_close(J @ eye(8, torch.float64), expected)


def test_the_model_is_left_as_it_was():
    net, x = built(convnet)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = [id(p) for p in net.parameters()]
    J = JacobianOperator.wrt_parameters(net, x)
    _ = J @ torch.ones(J.shape[1], dtype=x.dtype), J.T @ torch.ones(J.shape[0], dtype=x.dtype)
    assert [id(p) for p in net.parameters()] == parameters
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_parameters_that_require_no_grad_count_as_well(eye):
    net, x = built(mlp)
    net.requires_grad_(False)
    J = JacobianOperator.wrt_parameters(net, x)
    torch.testing.assert_close(J @ eye(J.shape[1], x.dtype), truth(net, x))


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float16])
def test_half_parameters_are_differentiated_in_the_given_dtype(own, eye):
    net, x = built(mlp, own)
    J = JacobianOperator.wrt_parameters(net, x.double(), dtype=torch.float64)
    assert J.dtype == torch.float64
    assert all(p.dtype == own for p in net.parameters())
    found = J @ eye(J.shape[1], torch.float64)
    torch.testing.assert_close(found, truth(net.double(), x.double()))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["0.weigth"], "did you mean '0.weight'"),
        (["0.weight", "nothing"], "there are 0.weight, 0.bias, 2.weight, 2.bias"),
    ],
)
def test_an_unknown_name_is_refused_with_a_hint(names, hint):
    net, x = built(mlp)
    with pytest.raises(ModelError, match=f"Sequential has no parameter '{names[-1]}'; {hint}"):
        JacobianOperator.wrt_parameters(net, x, names=names)


@pytest.mark.parametrize(("net", "names"), [(nn.ReLU(), None), (nn.Linear(3, 2), [])])
def test_nothing_to_differentiate_by_is_refused(net, names):
    with pytest.raises(ModelError, match="no parameter to differentiate by"):
        JacobianOperator.wrt_parameters(net.eval(), torch.ones(3), names=names)


def test_training_mode_is_refused():
    net, x = built(convnet)
    with pytest.raises(ModelError, match=r"module '1' \(BatchNorm2d\) is in training mode"):
        JacobianOperator.wrt_parameters(net.train(), x)


def test_a_dtype_that_is_not_real_floating_is_refused():
    net, x = built(mlp)
    with pytest.raises(ArgumentError, match="int64 is not real floating"):
        JacobianOperator.wrt_parameters(net, x, dtype=torch.int64)
