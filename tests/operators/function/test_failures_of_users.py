"""What a user's network raises, and torch because of it: one line that says what to do."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, depths, layer_map, svds
from jvpsvd.errors import ArgumentError, JvpsvdError, ModelError
from jvpsvd.operators import Trace, by_transforms, transformed

POINT = torch.tensor([0.4, -0.3, 0.9, 0.2])


def clipped_gradients():
    """As for clipping or recording gradients by layer."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    net[0].register_forward_hook(lambda module, args, output: watch(output))
    return net


def watch(output):
    output.register_hook(lambda gradient: gradient.clamp(-1, 1))


class Raising(nn.Module):
    def forward(self, x):
        raise KeyError("no such\nentry")


class TwoArguments(nn.Module):
    def forward(self, x, mask):
        return x * mask


EVALUATED = {
    "operator": lambda net: JacobianOperator(net, POINT),
    "recorded": lambda net: JacobianOperator(net, POINT, derivatives="trace"),
    "transforms": lambda net: JacobianOperator(net, POINT, derivatives="transforms"),
    "parameters": lambda net: JacobianOperator.wrt_parameters(net, POINT),
    "stream": lambda net: StreamedStack.over(net, POINT[None]),
    "trace": lambda net: Trace(net, POINT),
    "transformed": lambda net: transformed(net, POINT),
    "depths": lambda net: depths(net, POINT),
    "layer_map": lambda net: layer_map(net, POINT, to="output"),
}


@pytest.mark.parametrize("name", [name for name in EVALUATED if name != "transformed"])
def test_a_forward_hook_that_registers_a_gradient_hook(name):
    with pytest.raises(ModelError, match=r"raised RuntimeError: cannot register a hook.*ask `if"):
        EVALUATED[name](clipped_gradients().requires_grad_(name == "parameters"))


def test_a_forward_hook_that_registers_a_gradient_hook_is_named_by_the_transforms():
    with pytest.raises(ArgumentError, match="cannot register a hook"):
        transformed(clipped_gradients(), POINT)


class WithoutBackward(torch.autograd.Function):
    """The older style, which torch.func does not take."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("not written yet")


@pytest.mark.parametrize("take", [transformed, JacobianOperator])
def test_what_was_not_tried_is_not_said_to_be_missing(take):
    message = r"fn has no second reverse pass \(not written yet\); replace the operation"
    with pytest.raises(ArgumentError, match=message):
        take(WithoutBackward.apply, POINT)


def test_a_hook_that_asks_first_passes():
    net = clipped_gradients()
    net[0]._forward_hooks.clear()
    net[0].register_forward_hook(
        lambda module, args, output: watch(output) if output.requires_grad else None
    )
    assert JacobianOperator(net, POINT).shape == (2, 4)


@pytest.mark.parametrize("name", [name for name in EVALUATED if name != "parameters"])
def test_what_a_network_raises_is_one_line_with_its_cause(name):
    with pytest.raises(ModelError, match="raised KeyError: ") as caught:
        EVALUATED[name](Raising().eval())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_network_that_wants_more_arguments():
    with pytest.raises(
        ModelError, match=r"missing 1 required.*through args= and kwargs= of Jac.*, or hold it"
    ):
        JacobianOperator(TwoArguments().eval(), POINT)


def test_a_network_in_another_dtype():
    with pytest.raises(ModelError, match=r"dtype.*give x in the dtype of the weights"):
        JacobianOperator(nn.Linear(4, 2), POINT.double())


def test_dtype_by_parameters_converts_the_weights_and_not_the_input():
    net, dtype = nn.Linear(4, 2), torch.float64
    with pytest.raises(ModelError, match=r"give x in the dtype .*x\.double\(\).*args") as caught:
        JacobianOperator.wrt_parameters(net, POINT, dtype=dtype)
    assert "convert both" not in str(caught.value)
    assert JacobianOperator.wrt_parameters(net, POINT.double(), dtype=dtype).dtype == dtype


def test_dtype_converts_no_further_arguments():
    net, args, dtype = nn.Bilinear(4, 4, 2), (POINT,), torch.float64
    with pytest.raises(ModelError, match=r"args and kwargs too"):
        JacobianOperator(net, POINT, args=args, dtype=dtype)
    assert JacobianOperator(net, POINT, args=(POINT.double(),), dtype=dtype).dtype == dtype


WITHOUT_ENTRIES = {
    "sparse": (lambda x: x.to_sparse(), r"torch\.sparse_coo; .*y\.to_dense\(\)"),
    "compressed": (lambda x: x[None].to_sparse_csr(), r"torch\.sparse_csr; .*y\.to_dense\(\)"),
    "nested": (lambda x: torch.nested.as_nested_tensor([x, x[:2]]), "nested.*to_padded_tensor"),
    "jagged": (
        lambda x: torch.nested.as_nested_tensor([x, x[:2]], layout=torch.jagged),
        "nested.*to_padded_tensor",
    ),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), r"masked.*y\.to_tensor\(0\.0\)"),
}


@pytest.mark.filterwarnings("ignore")  # of torch, on nested, masked and sparse tensors
@pytest.mark.parametrize("kind", WITHOUT_ENTRIES)
@pytest.mark.parametrize(
    "take",
    [
        JacobianOperator,
        lambda fn, x: JacobianOperator(fn, x[None], batch_dims=1),
        lambda fn, x: JacobianOperator(fn, x, derivatives="transforms"),
        lambda fn, x: JacobianOperator(lambda x: {"y": fn(x)}, x),
        lambda fn, x: StreamedStack.over(fn, x[None]),
        Trace,
        transformed,
        by_transforms,
    ],
)
def test_a_value_without_some_entries(take, kind):
    fn, message = WITHOUT_ENTRIES[kind]
    with pytest.raises(ArgumentError, match=f"the function returned .*{message}"):
        take(fn, POINT)


def test_what_is_raised_in_a_product_later_is_one_line():
    broken = []

    def fn(x):
        if broken:
            raise ZeroDivisionError("later")
        return x.tanh()

    J = JacobianOperator(fn, POINT, derivatives="transforms")
    broken.append(True)
    with pytest.raises(ModelError, match="a product raised ZeroDivisionError: later"):
        J @ torch.ones(4)


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_an_exception_that_cannot_be_printed_is_one_line(derivatives):
    def fn(x):
        raise UnprintableError

    with pytest.raises(ModelError, match="fn raised UnprintableError: no message; call fn"):
        JacobianOperator(fn, POINT, derivatives=derivatives)


def test_a_value_that_cannot_be_printed_is_one_line():
    class Count:
        def __repr__(self):
            raise RuntimeError("no words")

    with pytest.raises(ArgumentError, match="k=a Count"):
        svds(torch.eye(2), Count())


def test_an_interruption_and_a_lack_of_memory_pass():
    for error in (KeyboardInterrupt, MemoryError, torch.OutOfMemoryError):

        def fn(x, error=error):
            raise error

        with pytest.raises(error):
            JacobianOperator(fn, POINT)


class Recurrence(nn.Module):
    """Keeps its state in one tensor that it writes to, as RWKV does."""

    def __init__(self):
        super().__init__()
        self.key, self.value = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decay = nn.Parameter(torch.rand(4))

    def forward(self, x):
        keys, values = self.key(x).exp(), self.value(x)
        state, outputs = torch.zeros(2, 4), []
        for key, value in zip(keys, values, strict=True):
            outputs.append((state[0] + key * value) / (state[1] + key))
            state[0] = state[0] * self.decay + key * value
            state[1] = state[1] * self.decay + key
        return torch.stack(outputs)


def test_an_operation_in_place_on_what_a_derivative_needs():
    torch.manual_seed(0)
    net, x = Recurrence().eval(), torch.randn(5, 4)
    with pytest.raises(JvpsvdError, match=r"modified by an inplace.*torch.stack\(list\) instead"):
        JacobianOperator.wrt_parameters(net, x)
    expected = torch.func.jacfwd(net)(x).reshape(20, 20)
    torch.testing.assert_close(JacobianOperator(net, x) @ torch.eye(20), expected)


class Unpacking(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(3, 3, 3)

    def forward(self, x):
        batch, _channels, length = x.shape
        return self.convolution(x).reshape(batch, 3, length - 2).mean(-1)


OF_BATCHES = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 5)),
    "batch norm": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)),
    "shape": lambda: nn.Sequential(nn.Flatten(2), Unpacking()),
}


@pytest.mark.parametrize("name", OF_BATCHES)
def test_a_network_of_batches_is_given_batches_of_one(name):
    torch.manual_seed(0)
    net, X = OF_BATCHES[name]().eval(), torch.randn(2, 3, 8, 8)
    for points in (X, X[:, None]):
        J = JacobianOperator(net, points, batch_dims=1)
        torch.testing.assert_close(
            svds(J, 2).s[1], svds(JacobianOperator(net, X[1:]), 2).s, rtol=1e-4, atol=1e-5
        )


WITHOUT_A_BATCH = {
    "operator": lambda net, X: JacobianOperator(net, X[0]),
    "parameters": lambda net, X: JacobianOperator.wrt_parameters(net, X[0]),
    "trace": lambda net, X: Trace(net, X[0]),
    "transformed": lambda net, X: transformed(net, X[0]),
    "by_transforms": lambda net, X: by_transforms(net, X[0]),
    "depths": lambda net, X: depths(net, X[0]),
    "layer_map": lambda net, X: layer_map(net, X[0], to="1"),
}


@pytest.mark.parametrize("name", WITHOUT_A_BATCH)
@pytest.mark.parametrize("net", ["batch norm", "shape"])
def test_a_network_of_batches_at_a_point_without_one(name, net):
    net, X = OF_BATCHES[net]().eval(), torch.randn(2, 3, 8, 8)
    with pytest.raises(ModelError, match=r"takes a batch: give x\[None\]") as caught:
        WITHOUT_A_BATCH[name](net, X)
    assert ("X[:, None]" in str(caught.value)) == (name not in ("depths", "layer_map"))


def test_what_has_a_value_and_no_derivative_is_not_to_be_called_by_itself():
    def fn(x):
        if not torch.is_grad_enabled() or not torch._C._functorch.is_gradtrackingtensor(x):
            return x.sin()
        raise RuntimeError("no derivative of this")

    with pytest.raises(ModelError, match=r"no derivative of this; fn\(x\) by itself works"):
        by_transforms(fn, POINT)


def test_a_network_that_fails_on_batches_too_gets_no_such_advice():
    with pytest.raises(ModelError, match=r"call fn\(x\) by itself") as caught:
        JacobianOperator(Raising().eval(), POINT[None], batch_dims=1)
    assert "None]" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(4, 2, device="meta"), r"'weight' of Linear is on the meta device"),
        (lambda: nn.Sequential(nn.LazyLinear(2)), r"'0.weight' of Sequential has no shape before"),
    ],
)
@pytest.mark.parametrize("name", [n for n in EVALUATED if n not in ("trace", "transformed")])
def test_weights_without_values(make, message, name):
    net = make().eval()
    kinds = [type(parameter) for parameter in net.parameters()]
    with pytest.raises(ModelError, match=message):
        EVALUATED[name](net)
    assert [type(parameter) for parameter in net.parameters()] == kinds


@pytest.mark.parametrize("fn", [None, 3.0, "net", torch.ones(3), nn.Linear, [torch.sin]])
def test_what_is_no_function(fn):
    with pytest.raises(JvpsvdError, match=r"fn is .*; give a function of the point, or a module"):
        JacobianOperator(fn, POINT)


@pytest.mark.parametrize("model", [None, torch.sin, nn.Linear, "resnet18"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda model: depths(model, POINT),
        lambda model: layer_map(model, POINT, to="0"),
        lambda model: JacobianOperator.wrt_parameters(model, POINT),
    ],
)
def test_what_is_no_module(ask, model):
    with pytest.raises(ModelError, match=r"the model is a .*; give a torch.nn.Module"):
        ask(model)
