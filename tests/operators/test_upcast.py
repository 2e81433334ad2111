"""Half-precision networks, differentiated in the given dtype, or in their own."""

import copy

import pytest
import torch
from support.batch_problems import TOLERANCE, convnet, mlp
from torch import nn

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import ArgumentError

EVERY_WAY = pytest.mark.parametrize("derivatives", ["trace", "transforms"])
HALVES = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


def normed():
    return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)), (2, 6)


NETWORKS = pytest.mark.parametrize("build", [mlp, convnet, normed])


def built(build, half):
    torch.manual_seed(0)
    net, shape = build()
    return net.to(half).eval(), torch.randn(shape).to(half)


def wide(net):
    """A copy in float64, which holds the half-precision weights as they are."""
    return copy.deepcopy(net).double()


@EVERY_WAY
@HALVES
@NETWORKS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_those_of_the_network_in_float64(build, dtype, half, derivatives, dense, eye):
    net, x = built(build, half)
    expected = dense(wide(net), x.double())
    J = JacobianOperator(net, x, dtype=dtype, derivatives=derivatives)
    m, n = J.shape
    assert (J.dtype, J.point.dtype, J.value.dtype) == (dtype,) * 3
    scale = TOLERANCE[dtype] * expected.abs().max()
    assert (J @ eye(n, dtype) - expected).abs().max() < scale
    assert (J.T @ eye(m, dtype) - expected.T).abs().max() < scale


@HALVES
@NETWORKS
def test_singular_values_are_those_of_the_network_in_float64(build, half, dense):
    net, x = built(build, half)
    expected = torch.linalg.svdvals(dense(wide(net), x.double()))[:2]
    found = svds(JacobianOperator(net, x, dtype=torch.float32), 2)
    torch.testing.assert_close(found.s.double(), expected, rtol=1e-5, atol=1e-5)


@HALVES
@NETWORKS
def test_the_network_itself_is_not_changed(build, half):
    net, x = built(build, half)
    before = {name: (value, value.clone()) for name, value in net.state_dict().items()}
    JacobianOperator(net, x, dtype=torch.float64)
    for name, value in net.state_dict().items():
        same, numbers = before[name]
        assert value.data_ptr() == same.data_ptr()
        assert value.dtype == numbers.dtype
        assert torch.equal(value, numbers)
    assert all(p.requires_grad for p in net.parameters())
    assert x.dtype == half


def test_a_point_in_any_dtype_is_converted(dense, eye):
    net, x = built(mlp, torch.bfloat16)
    for given in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        J = JacobianOperator(net, x.to(given), dtype=torch.float32)
        assert J.point.dtype == torch.float32
        expected = dense(wide(net).float(), x.to(given).float())
        torch.testing.assert_close(J @ eye(5, torch.float32), expected)


@EVERY_WAY
def test_batches_and_trees_are_converted(derivatives, dense, eye):
    net, _ = built(mlp, torch.bfloat16)
    X = torch.randn(3, 5).bfloat16()
    J = JacobianOperator(net, X, dtype=torch.float64, batch_dims=1, derivatives=derivatives)
    expected = torch.stack([dense(wide(net), x.double()) for x in X])
    torch.testing.assert_close(J @ eye(5, torch.float64).expand(3, 5, 5), expected)

    class OfDict(nn.Sequential):
        def forward(self, x):
            return {"y": super().forward(x["a"] * x["b"])}

    both = OfDict(*net).eval()
    J = JacobianOperator(both, {"a": X[0], "b": X[1]}, dtype=torch.float64, derivatives=derivatives)
    a, b = X[0].double(), X[1].double()
    exact = wide(net)
    left = dense(lambda z: exact(z * b), a)
    right = dense(lambda z: exact(a * z), b)
    torch.testing.assert_close(J @ eye(10, torch.float64), torch.cat([left, right], dim=1))


def test_tied_weights_stay_tied(dense, eye):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).bfloat16().eval()
    net[2].weight = net[0].weight
    x = torch.linspace(-1, 1, 4).bfloat16()
    J = JacobianOperator(net, x, dtype=torch.float64)
    torch.testing.assert_close(J @ eye(4, torch.float64), dense(wide(net), x.double()))


def test_a_buffer_of_integers_keeps_its_dtype(eye):
    class Picking(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("ids", torch.tensor([2, 0]))

        def forward(self, x):
            return x[self.ids]

    J = JacobianOperator(Picking().eval(), torch.ones(3).bfloat16(), dtype=torch.float64)
    assert (J @ eye(3, torch.float64)).tolist() == [[0, 0, 1], [1, 0, 0]]


@EVERY_WAY
@NETWORKS
def test_bfloat16_without_a_dtype_gives_bfloat16_near_the_truth(build, derivatives, dense, eye):
    net, x = built(build, torch.bfloat16)
    expected = dense(wide(net), x.double())
    J = JacobianOperator(net, x, derivatives=derivatives)
    m, n = J.shape
    forward, reverse = J @ eye(n, torch.bfloat16), J.T @ eye(m, torch.bfloat16)
    assert forward.dtype == reverse.dtype == torch.bfloat16
    scale = 0.03 * expected.abs().max()  # eight bits, through four layers
    assert (forward.double() - expected).abs().max() < scale
    assert (reverse.double() - expected.T).abs().max() < scale


@pytest.mark.parametrize("fn", [torch.sin, lambda x: x], ids=["sin", "lambda"])
def test_a_plain_function_has_no_weights_to_convert(fn):
    with pytest.raises(ArgumentError, match=r"float64 converts the weights of a module.*yourself"):
        JacobianOperator(fn, torch.ones(2), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_a_dtype_that_is_not_real_floating_is_refused(dtype):
    with pytest.raises(ArgumentError, match=f"{dtype} is not real floating"):
        JacobianOperator(nn.Linear(2, 2), torch.ones(2), dtype=dtype)


@pytest.mark.parametrize("dtype", [int, "float32"])
def test_a_dtype_that_is_no_dtype_is_refused(dtype):
    with pytest.raises(ArgumentError, match="dtype="):
        JacobianOperator(nn.Linear(2, 2), torch.ones(2), dtype=dtype)
