"""dtype= converts the weights that are read, once: counted in bytes of what is kept."""

import contextlib
import gc

import pytest
import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor as is_wrapped

from jvpsvd import JacobianOperator, layer_map
from jvpsvd.errors import ArgumentError
from jvpsvd.operators.function.fingerprint import is_dense

WIDTH, BLOCKS = 256, 5
EVERY_WAY = pytest.mark.parametrize("derivatives", ["trace", "transforms"])
pytestmark = pytest.mark.usefixtures("only_new_objects")


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    net = nn.TransformerEncoder(block, BLOCKS, enable_nested_tensor=False)
    return net.bfloat16().eval().requires_grad_(False)


def point():
    return torch.randn(1, 2, WIDTH).bfloat16()


def kept():
    """Bytes of all dense tensors of this test that Python code can reach."""
    gc.collect()
    tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, nn.Parameter)]
    storages = {}
    for tensor in tensors:
        if is_wrapped(tensor) or not is_dense(tensor):
            continue
        storage = tensor.untyped_storage()
        with contextlib.suppress(RuntimeError):  # other tests leave tensors without a storage
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def bytes_of(net):
    return sum(parameter.nbytes for parameter in net.parameters())


@EVERY_WAY
def test_a_network_is_converted_once(transformer, derivatives):
    x, before = point(), kept()
    J = JacobianOperator(transformer, x, dtype=torch.float32, derivatives=derivatives)
    assert J.dtype == torch.float32
    assert 2 * bytes_of(transformer) < kept() - before < 2.2 * bytes_of(transformer)


@EVERY_WAY
@pytest.mark.parametrize("since", [None, "layers.0"])
def test_later_layers_are_not_converted(transformer, derivatives, since):
    x = point()
    f, z = layer_map(transformer, x, to="layers.2", since=since)
    before = kept()
    J = JacobianOperator(f, z, dtype=torch.float32, derivatives=derivatives)
    in_use = bytes_of(transformer.layers[:3])
    assert J.dtype == torch.float32
    assert kept() - before < 2.2 * in_use


def test_what_was_converted_counts_as_held(transformer):
    J = JacobianOperator(transformer, point(), dtype=torch.float32, derivatives="trace")
    assert 2 * bytes_of(transformer) < J.held_bytes < 2.2 * bytes_of(transformer)


def test_parameters_are_the_point_and_nothing_else(transformer):
    before = kept()
    J = JacobianOperator.wrt_parameters(
        transformer, point().float(), dtype=torch.float32, derivatives="trace"
    )
    assert J.shape[1] == sum(p.numel() for p in transformer.parameters())
    assert kept() - before < 2.2 * bytes_of(transformer)


def test_parameters_held_fixed_are_converted_once(transformer):
    before = kept()
    JacobianOperator.wrt_parameters(
        transformer,
        point().float(),
        names=["layers.4.linear2.bias"],
        dtype=torch.float32,
        derivatives="trace",
    )
    assert kept() - before < 2.2 * bytes_of(transformer)


class Routed(nn.Module):
    """One of two experts, chosen by the input; asks weights for their kind without reading them."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        if any(p.dtype != x.dtype or p.shape[-1] != 4 for p in self.parameters()):
            raise TypeError("weights are in another dtype")
        return self.experts[int(x.sum() > 0)](x).tanh()


def test_weights_that_another_point_reads_are_converted_there(dense, eye):
    torch.manual_seed(0)
    net = Routed().bfloat16().eval()
    x = torch.ones(4)
    J = JacobianOperator(net, x, dtype=torch.float64)
    wide = Routed().double()
    wide.load_state_dict(net.state_dict())
    for at, jacobian in ((x, J), (-x, J.at(-x))):
        expected = dense(wide, at.double())
        torch.testing.assert_close(jacobian @ eye(4, torch.float64), expected)


class Scaling(torch.autograd.Function):
    """Keeps its weight for the derivative, where no mode of torch sees it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight):
        return x * weight

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        return gradient @ torch.diag(weight), None

    @staticmethod
    def jvp(ctx, tangent, _):
        (weight,) = ctx.saved_tensors
        return tangent @ torch.diag(weight)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
        self.unread = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return Scaling.apply(x, self.weight)


def test_an_autograd_function_reads_converted_weights(eye):
    net = Scaled().bfloat16().eval()
    J = JacobianOperator(net, torch.ones(3), dtype=torch.float64, derivatives="transforms")
    expected = torch.diag(torch.tensor([1.0, 2.0, 3.0]).double())
    assert torch.equal(J @ eye(3, torch.float64), expected)
    assert torch.equal(J.T @ eye(3, torch.float64), expected)


def mixed():
    """The weights of the first layer are float32 already."""
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64).bfloat16())


@EVERY_WAY
@pytest.mark.parametrize("layers", [slice(0, 2), slice(0, 3)], ids=["float32", "mixed"])
def test_a_change_of_weights_of_the_dtype_already_is_noticed(layers, derivatives):
    torch.manual_seed(0)
    net, x = mixed()[layers].requires_grad_(False), torch.randn(64)
    J = JacobianOperator(net, x, dtype=torch.float32, derivatives=derivatives)
    before = J @ torch.eye(64)
    net[0].weight.data.mul_(2)
    try:
        after = J @ torch.eye(64)
    except ArgumentError as error:
        assert "changed" in str(error)  # noqa: PT017
    else:
        torch.testing.assert_close(after, before)


def test_what_is_held_does_not_count_weights_of_the_dtype_already():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3000, 3000), nn.Tanh(), nn.Linear(3000, 3000))
    net, x = net.requires_grad_(False), torch.randn(3000)
    plain, same = (
        JacobianOperator(net, x, dtype=dtype, derivatives="trace").held_bytes
        for dtype in (None, torch.float32)
    )
    assert plain == same < 1 << 20


@EVERY_WAY
def test_no_product_of_a_check_is_kept(derivatives):
    net, x = nn.Linear(4, 1 << 20).requires_grad_(False), torch.randn(4)
    value, before = 4 << 20, kept()
    J = JacobianOperator(net, x, derivatives=derivatives)
    assert kept() - before <= J.held_bytes + 1.5 * value
