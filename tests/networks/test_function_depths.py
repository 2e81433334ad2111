"""What functions, operators and methods compute is a depth, named as torch.fx names it."""

import logging
import re

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from jvpsvd import JacobianOperator, depths, layer_map
from jvpsvd.errors import ModelError
from jvpsvd.networks import layer_maps
from jvpsvd.operators import Trace


class Block(nn.Module):
    """A residual block as torchvision has it: an in-place addition, one ReLU called twice."""

    def __init__(self, *, in_place=True):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=in_place)

    def forward(self, x):
        out = self.relu(self.conv1(x))
        out = self.bn(self.conv2(out))
        out += x
        return self.relu(out)


class Net(nn.Module):
    """Functions of each kind around two blocks, of which the second is called twice."""

    def __init__(self):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(3)
        self.layer1 = nn.Sequential(Block(), Block())
        self.tail = Tail()
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        x = torch.relu(self.bn1(x))
        x = self.layer1(x)
        x = self.tail(self.tail(x))
        x = functional.max_pool2d(functional.relu(x - 0.1), 2)
        return self.fc(x.flatten(1))


class Tail(nn.Module):
    """Calls functions only, and returns what the last one computes."""

    def forward(self, x):
        return torch.cat([x[:, :1], 2 * x[:, 1:].tanh()], 1)


def made(net):
    torch.manual_seed(0)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net.double().eval()


def photo(seed=0, size=4):
    return torch.randn(
        1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def names(model, x, **options):
    return [depth.name for depth in depths(model, x, **options)]


def dense(J):
    return J @ torch.eye(J.shape[1], dtype=J.dtype)


def jacobian(fn, x):
    return torch.func.jacrev(lambda z: fn(z.clone()))(x).detach().reshape(-1, x.numel())


FUNCTIONS = [
    "relu", "layer1.0.add", "layer1.1.add", "tail.getitem", "tail.getitem_1", "tail.tanh",
    "tail.mul", "tail.getitem_2", "tail.getitem_3", "tail.tanh_1", "tail.mul_1", "sub", "relu_1",
    "max_pool2d", "flatten",
]  # fmt: skip


def test_they_are_listed_in_the_order_of_computation():
    found = depths(made(Net()), photo())
    assert [d.name for d in found if d.kind == "function"] == FUNCTIONS
    order = [d.name for d in found]
    assert order[:4] == ["bn1", "relu", "layer1.0.conv1", "layer1.0.relu@1"]
    assert order[order.index("layer1.0.add") + 1] == "layer1.0.relu@2"
    assert order[-3:] == ["flatten", "fc", "output"]
    assert {d.name: d.shape for d in found}["flatten"] == (1, 12)


def test_modules_alone_are_listed_as_if_there_were_no_functions():
    net, x = made(Net()), photo()
    modules = depths(net, x, functions=False)
    assert modules == [d for d in depths(net, x) if d.kind != "function"]
    assert [d.name for d in modules][:2] == ["bn1", "layer1.0.conv1"]


def node_names(model):
    """Names of what torch.fx traces, written as torchvision's feature extraction does."""
    seen, found = {}, []
    for node in fx.Tracer().trace(model).nodes:
        if node.op in ("call_function", "call_method"):
            module = [name.partition("@")[0] for name in node.meta.get("nn_module_stack", ())][-1:]
            name = ".".join([*module, re.sub(r"_\d+$", "", node.name)])
            seen[name] = seen.get(name, -1) + 1
            found.append(f"{name}_{seen[name]}" if seen[name] else name)
    return found


def test_names_are_those_of_torch_fx():
    net, x = made(Net()), photo()
    nodes = node_names(net)
    assert [name for name in nodes if name not in FUNCTIONS] == ["tail.cat", "tail.cat_1"]
    assert [name for name in nodes if name in FUNCTIONS] == FUNCTIONS
    # What a module returns is listed under its name; the function's is valid all the same.
    for name, module in (("tail.cat", "tail@1"), ("tail.cat_1", "tail@2")):
        values = [layer_map(net, x, to=to)[0](x) for to in (name, module)]
        assert torch.equal(*values)


@pytest.mark.parametrize(
    ("compute", "name"),
    [
        (lambda x: x + 1, "add"),
        (lambda x: 1 + x, "add"),
        (lambda x: x.add(1), "add"),
        (lambda x: x.add_(1), "add"),
        (lambda x: x - 1, "sub"),
        (lambda x: 1 - x, "sub"),
        (lambda x: -x, "neg"),
        (lambda x: 2 * x, "mul"),
        (lambda x: x / 2, "div"),
        (lambda x: 2 / x, "div"),
        (lambda x: x**2, "pow"),
        (lambda x: 2**x, "pow"),
        (lambda x: x @ x, "matmul"),
        (lambda x: x.T, "T"),
        (lambda x: x[:1], "getitem"),
        (lambda x: abs(x), "abs"),
        (lambda x: functional.relu(x, inplace=True), "relu"),
        (lambda x: torch.relu_(x), "relu"),
        (lambda x: functional.gelu(x), "gelu"),
        (lambda x: functional.avg_pool2d(x[None], 2), "avg_pool2d"),
        (
            lambda x: functional.scaled_dot_product_attention(x, x, x),
            "scaled_dot_product_attention",
        ),
        (lambda x: torch.einsum("ij,jk", x, x), "einsum"),
        (lambda x: torch.ops.aten.relu(x), "relu"),
        (lambda x: torch.ops.aten.relu.default(x), "relu"),
        (lambda x: x.chunk(2)[1], "chunk[1]"),
        (lambda x: x.max(1)[0], "max[0]"),
    ],
)
def test_names_of_operators_methods_and_functions(compute, name):
    class Wrapped(nn.Module):
        def forward(self, x):
            return compute(x.clone()) + 0

    found = names(Wrapped().eval(), torch.eye(2))
    assert name in found
    assert found[0] == "clone"


class Activations(nn.Module):
    """Has modules with the names of functions that it calls."""

    def __init__(self):
        super().__init__()
        self.relu, self.tanh, self.tanh_1 = nn.ReLU(), nn.Tanh(), nn.Tanh()

    def forward(self, x):
        x = torch.tanh(self.relu(x))
        return torch.tanh(self.tanh_1(torch.relu(x) + 1)) * 2


def test_names_of_modules_are_theirs_called_or_not():
    x = torch.linspace(-1, 1, 3)
    net = Activations().eval()
    assert names(net, x) == ["relu", "tanh_2", "relu_1", "add", "tanh_1", "tanh_3", "output"]
    torch.testing.assert_close(layer_map(net, x, to="tanh_1")[0](x), (x.relu().tanh() + 1).tanh())
    torch.testing.assert_close(layer_map(net, x, to="tanh_2")[0](x), x.relu().tanh())
    with pytest.raises(
        ModelError, match=r"no depth 'tanh'.*did you mean tanh_3 or tanh_2 or tanh_1"
    ):
        layer_map(net, x, to="tanh")


class Sparse(nn.Module):
    """Computes what is no depth of its own."""

    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)

    def forward(self, x):
        x = self.body(x)
        mask = torch.ones(x.shape[1]) * 1.0  # of no tensor of the model, in part
        x = x.contiguous().to(x.dtype)  # has nothing to do
        return x.argmax(-1), (x * mask[:, None] > 0), x.size(0), x.exp()


def test_what_torch_computes_itself_and_what_is_unchanged_is_not_listed():
    found = names(Sparse().eval(), torch.ones(1, 3, 4))
    assert [name for name in found if not name.startswith("body")] == [
        "mul", "getitem", "mul_1", "output[3]",
    ]  # fmt: skip
    assert "body.linear2" in found
    assert not any(re.search("add|softmax|linear$", name) for name in found)


class Ragged(nn.Module):
    """Goes through a nested tensor, which has no shape."""

    def __init__(self):
        super().__init__()
        self.same = nn.Identity()

    def forward(self, x):
        x = torch.nested.as_nested_tensor([x[0], x[1]]) * 2
        return torch.nested.to_padded_tensor(self.same(x), 0.0).sin() + 1


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_no_depths(caplog):
    found = names(Ragged().eval(), torch.eye(2))
    assert found == ["getitem", "getitem_1", "nested_to_padded_tensor", "sin", "output"]
    assert not caplog.records
    assert names(Ragged().eval(), torch.eye(2), functions=False) == ["output"]


def test_under_inference_mode_the_same_is_listed():
    net, x = made(Net()), photo()
    expected = names(net, x)
    with torch.inference_mode():
        assert names(net, x) == names(net, photo()) == expected


class Branches(nn.Module):
    """No tracer of graphs can follow it: it asks for values, and takes token ids."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(5, 3)

    def forward(self, ids):
        x = self.tokens(ids)
        for _ in range(int(ids.max())):
            x = torch.sin(x)
        return x + (1 if float(x.detach().sum()) > 9 else x.cos())


def test_models_that_cannot_be_traced_have_the_same_names(caplog):
    torch.manual_seed(0)
    net, ids = Branches().double().eval(), torch.tensor([[0, 3, 1]])
    with pytest.raises(TypeError, match="Proxy"):
        fx.symbolic_trace(net)
    expected = ["tokens", "sin", "sin_1", "sin_2", "detach", "sum", "cos", "output"]
    assert names(net, ids) == expected
    assert not caplog.records
    f, z = layer_map(net, ids, to="sin_2", since="sin")
    torch.testing.assert_close(z, net.tokens(ids).sin())
    torch.testing.assert_close(dense(JacobianOperator(f, z)), jacobian(lambda v: v.sin().sin(), z))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.mul(2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class Inner(nn.Module):
    """Computes under transforms, and in an autograd function."""

    def forward(self, x):
        x = torch.vmap(torch.sin)(x)
        x = torch.func.grad(lambda z: z.cos().sum())(x) + x
        return Doubled.apply(x).exp() + 1


def test_what_cannot_be_cut_out_is_not_listed():
    assert names(Inner().eval(), torch.eye(2)) == ["add", "exp", "output"]
    f, z = layer_map(Inner().eval(), torch.eye(2), to="add")
    v = torch.linspace(0, 1, 4)
    expected = torch.func.jvp(f, (z,), (v.reshape(2, 2),))[1]
    torch.testing.assert_close(JacobianOperator(f, z) @ v, expected.flatten())


@pytest.mark.parametrize("compiled", [False, True])
def test_compiled_networks_have_the_functions_of_the_plain_one(compiled):
    net, x = made(Net()), photo()
    if compiled:
        net.layer1[0].compile(backend="eager")
        net = torch.compile(net, backend="eager")
    assert [name for name in names(net, x) if name in FUNCTIONS] == FUNCTIONS
    torch.testing.assert_close(
        layer_map(net, x, to="layer1.0.add")[0](x),
        layer_map(made(Net()), x, to="layer1.0.add")[0](x),
    )


class Proud(nn.Module):
    """Refuses to have its functions observed."""

    def forward(self, x):
        if torch.overrides.has_torch_function((x,)):
            raise TypeError("plain tensors only")
        return torch.relu(x) + 1


def test_a_model_that_refuses_to_be_observed_has_its_modules_and_says_why(caplog):
    net = nn.Sequential(nn.Linear(2, 2), Proud(), nn.Tanh()).eval()
    assert names(net, torch.ones(1, 2)) == ["0", "1", "2", "output"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == (
        "module '1' (Proud) fails where functions are observed (TypeError: plain tensors only); "
        "what functions compute is not listed"
    )
    caplog.clear()
    assert names(net, torch.ones(1, 2), functions=False) == ["0", "1", "2", "output"]
    f, z = layer_map(net, torch.ones(1, 2), to="2", since="0")
    torch.testing.assert_close(f(z), net[1:](z))
    with pytest.raises(ModelError, match=r"no depth '1\.relu'.*; module '1' \(Proud\) fails where"):
        layer_map(net, torch.ones(1, 2), to="1.relu")
    assert not caplog.records


def test_a_model_that_fails_says_so_once(caplog):
    caplog.set_level(logging.WARNING)
    with pytest.raises(ModelError, match=r"Net, called at x, .*called at x|Net") as caught:
        depths(made(Net()), photo(size=2).float())
    assert "\n" not in str(caught.value)
    assert not caplog.records


def before(net, to):
    """The network up to a function, by hand."""
    up_to = {
        "relu": lambda x: net.bn1(x).relu(),
        "layer1.0.add": lambda x: add(net.layer1[0], net.bn1(x).relu()),
        "tail.mul_1": lambda x: 2 * net.tail(net.layer1(net.bn1(x).relu()))[:, 1:].tanh(),
        "flatten": lambda x: functional.max_pool2d(
            functional.relu(net.tail(net.tail(net.layer1(net.bn1(x).relu()))) - 0.1), 2
        ).flatten(1),
    }
    return up_to[to]


def add(block, x):
    return block.bn(block.conv2(block.conv1(x).relu())) + x


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("to", ["relu", "layer1.0.add", "tail.mul_1", "flatten"])
def test_from_the_input_to_a_function(to, derivatives):
    net, x = made(Net()), photo()
    f, z = layer_map(net, x, to=to)
    head = before(net, to)
    torch.testing.assert_close(f(z), head(x))
    torch.testing.assert_close(f(photo(1)), head(photo(1)))
    J = JacobianOperator(f, z, derivatives=derivatives)
    torch.testing.assert_close(dense(J), jacobian(head, x))


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize(
    ("since", "to"),
    [
        ("relu", "layer1.0.add"),
        ("layer1.0.add", "flatten"),
        ("layer1.0.add", "output"),
        ("layer1", "relu_1"),
        ("sub", "fc"),
    ],
)
def test_between_functions_and_modules_the_chain_rule_holds(since, to, derivatives):
    net, x = made(Net()), photo()

    def operator(**cut):
        f, z = layer_map(net, x, **cut)
        return JacobianOperator(f, z, derivatives=derivatives)

    whole, first, second = operator(to=to), operator(to=since), operator(to=to, since=since)
    torch.testing.assert_close(dense(second @ first), dense(whole))
    torch.testing.assert_close(second.value, whole.value)
    assert dense(whole).abs().max() > 1e-3


def test_one_recording_serves_functions_and_modules_at_every_point():
    net, x = made(Net()), photo()
    wanted = ["layer1.0.bn", "layer1.0.add", "layer1.0.relu@2", "relu", "flatten", "output"]
    f = layer_maps(net, x, wanted)  # the addition works in place on layer1.0.bn
    values = f(x)
    for name, value in zip(wanted, values, strict=True):
        torch.testing.assert_close(value, layer_map(net, x, to=name)[0](x))
    assert not torch.equal(values[0], values[1])
    for name, derivative in zip(wanted, Trace(f, x).at(photo(1)), strict=True):
        head = layer_map(net, x, to=name)[0]
        found = derivative.jvp(torch.eye(48, dtype=x.dtype).reshape(48, *x.shape))
        torch.testing.assert_close(found.reshape(48, -1).T, jacobian(head, photo(1)))


def test_a_network_of_functions_is_no_longer_blind_to_its_nonlinearity():
    net = made(Net())
    spectra = {
        to: [dense(JacobianOperator(*layer_map(net, photo(i), to=to))) for i in range(2)]
        for to in ("bn1", "relu")
    }
    assert torch.equal(*spectra["bn1"])
    assert not torch.allclose(*spectra["relu"])


def test_a_skip_connection_around_a_function_is_no_cut():
    net, x = made(Net()), photo()
    with pytest.raises(
        ModelError, match=r"since='tail.tanh' is not a cut.* through 'tail.cat' \(f"
    ):
        layer_map(net, x, to="tail.cat", since="tail.tanh")
    with pytest.raises(ModelError, match=r"since='tail.mul' is not a cut.* through 'tail.cat' \(f"):
        layer_map(net, x, to="tail@1", since="tail.mul")
    with pytest.raises(ModelError, match=r"'layer1.0.bn' is not a cut.* through 'layer1.0.add'"):
        layer_map(net, x, to="flatten", since="layer1.0.bn")


class InPlace(nn.Module):
    """Changes a tensor and goes on with its own reference to it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        x = self.fc(x)
        x.mul_(2)
        return x.exp()


def test_a_result_that_is_not_used_by_its_reference_is_no_cut():
    net, x = InPlace().eval(), torch.ones(1, 2)
    assert names(net, x) == ["fc", "mul", "output"]
    torch.testing.assert_close(layer_map(net, x, to="mul")[0](x), 2 * net.fc(x))
    with pytest.raises(ModelError, match="since='mul' is not a cut"):
        layer_map(net, x, to="output", since="mul")


class Sometimes(nn.Module):
    def forward(self, x):
        return torch.sin(x) + 1 if x.sum() > 0 else x + 1


def test_a_function_that_is_not_called_again_is_an_error():
    f, z = layer_map(Sometimes().eval(), torch.ones(2), to="sin")
    torch.testing.assert_close(f(z), z.sin())
    with pytest.raises(ModelError, match=r"never reached call 1 of 'sin'.*another path"):
        f(-z)


class Caught(nn.Module):
    """Goes on after an error in a module."""

    def __init__(self):
        super().__init__()
        self.narrow = nn.Sequential(nn.Linear(2, 2), nn.Linear(3, 3))

    def forward(self, x):
        try:
            return self.narrow(x)
        except RuntimeError:
            return nn.functional.relu(self.narrow[0](x)) + 1


def test_errors_that_the_model_catches_are_its_own():
    found = names(Caught().eval(), torch.ones(2))
    assert found[0], found[-1] == ("narrow.0@1", "output")


def test_hooks_and_observation_end_with_every_call():
    net, x = made(Net()), photo()
    f, z = layer_map(net, x, to="flatten", since="relu")
    f(z)
    with pytest.raises(ModelError):
        depths(net, x.float())
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not torch.overrides.has_torch_function((x,))


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("relu_2", "no depth 'relu_2'.*did you mean relu_1 or relu"),
        ("layer1.0.ad", "did you mean layer1.0.add"),
        ("layer1.0.relu_1", "did you mean layer1.0.relu@1 or"),
        ("flaten", "did you mean flatten"),
    ],
)
def test_names_that_are_nearly_right(to, message):
    with pytest.raises(ModelError, match=message) as caught:
        layer_map(made(Net()), photo(), to=to)
    assert "\n" not in str(caught.value)
