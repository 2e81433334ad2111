"""Tensors in the tuples, dicts and dataclasses that modules return are depths, by index or key."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, fields

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, depths, layer_map
from jvpsvd.errors import ModelError
from jvpsvd.networks import layer_maps

Pair = namedtuple("Pair", ["state", "weights"])


class ModelOutput(OrderedDict):
    """As that of transformers: a dict and a dataclass, its keys are its attributes."""

    def __post_init__(self):
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        super().__setattr__(key, value)

    def __reduce__(self):
        make, _, *rest = super().__reduce__()
        return make, tuple(getattr(self, field.name) for field in fields(self)), *rest


@dataclass
class Classified(ModelOutput):
    logits: torch.Tensor | None = None
    past: tuple | None = None
    loss: torch.Tensor | None = None


@dataclass(frozen=True)
class Frozen:
    state: torch.Tensor
    label: str = "a"


KINDS = {
    "tuple": (lambda y: (y,), lambda out: out[0], "[0]"),
    "pair": (lambda y: ("first", y), lambda out: out[1], "[1]"),
    "list": (lambda y: [None, y], lambda out: out[1], "[1]"),
    "namedtuple": (lambda y: Pair(y, None), lambda out: out.state, ".state"),
    "dict": (lambda y: {"state": y, "n": 3}, lambda out: out["state"], ".state"),
    "dict of numbers": (lambda y: {3: y}, lambda out: out[3], "[3]"),
    "dict of words": (lambda y: {"a.b": y}, lambda out: out["a.b"], "['a.b']"),
    "ordered dict": (lambda y: OrderedDict(state=y), lambda out: out["state"], ".state"),
    "dataclass": (Frozen, lambda out: out.state, ".state"),
    "model output": (Classified, lambda out: out.logits, ".logits"),
    "model output as dict": (Classified, lambda out: out["logits"], ".logits"),
    "nested": (
        lambda y: Classified(past=((None, {"key": y}),)),
        lambda out: out.past[0][1]["key"],
        ".past[0][1].key",
    ),
}


class Layer(nn.Module):
    """A residual layer that returns its state in some container."""

    def __init__(self, kind):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.wrap = KINDS[kind][0]

    def forward(self, x):
        return self.wrap(x + self.fc(x).tanh())


class Stack(nn.Module):
    """Two layers and a head; checks that each gets the kind of output that the layer made."""

    def __init__(self, kind):
        super().__init__()
        self.first, self.second, self.head = Layer(kind), Layer(kind), nn.Linear(3, 2)
        self.unwrap = KINDS[kind][1]

    def forward(self, x):
        kinds = []
        for layer in (self.first, self.second):
            output = layer(x)
            kinds.append(type(output))
            x = self.unwrap(output)
        assert kinds == [type(self.first.wrap(x))] * 2
        return self.head(x)


def made(net):
    torch.manual_seed(0)
    for module in net.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return net.double().eval()


X = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)


def names(model, x=X, **options):
    return [depth.name for depth in depths(model, x, **options)]


def dense(J):
    return J @ torch.eye(J.shape[1], dtype=J.dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_listed_as_index_or_key(kind):
    part = KINDS[kind][2]
    found = depths(made(Stack(kind)), X)
    assert [d.name for d in found] == [
        "first.fc", "first.tanh", f"first{part}", "second.fc", "second.tanh", f"second{part}",
        "head", "output",
    ]  # fmt: skip
    parts = [d for d in found if d.part]
    assert [(d.name, d.kind, d.shape) for d in parts] == [
        (f"first{part}", "Layer", (1, 3)), (f"second{part}", "Layer", (1, 3)),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_runs_to_them_and_from_them(kind):
    part, net = KINDS[kind][2], made(Stack(kind))
    f, z = layer_map(net, X, to=f"second{part}", since=f"first{part}")
    torch.testing.assert_close(z, X + net.first.fc(X).tanh())
    torch.testing.assert_close(f(2 * z), 2 * z + net.second.fc(2 * z).tanh())

    def operator(**cut):
        return JacobianOperator(*layer_map(net, X, **cut))

    whole = operator(to="output")
    chain = (
        operator(to="output", since=f"second{part}")
        @ operator(to=f"second{part}", since=f"first{part}")
        @ operator(to=f"first{part}")
    )
    torch.testing.assert_close(dense(chain), dense(whole))
    expected = torch.func.jacrev(net)(X).reshape(2, 3)
    torch.testing.assert_close(dense(whole), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_output_of_the_network_is_one(kind):
    net = made(nn.Sequential(nn.Linear(3, 3), Layer(kind)))
    name = f"output{KINDS[kind][2]}"
    assert names(net)[-1] == name
    torch.testing.assert_close(layer_map(net, X, to=name)[0](X), KINDS[kind][1](net(X)))
    with pytest.raises(ModelError) as caught:
        layer_map(net, X, to="output")
    assert str(caught.value) == f"'output' returns no tensor itself; name one that it holds: {name}"


class Decoder(nn.Module):
    """Returns logits, nested states and what is no depth; `attn` is a module and a key."""

    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(3, 3)
        self.lstm = nn.LSTM(3, 2, batch_first=True)

    def forward(self, x):
        x = self.attn(x)
        h, (state, cell) = self.lstm(x)
        past = ((h, state), [cell, x.argmax(-1)], x[:0])
        return {"logits": h.exp(), "past": past, "attn": x, "exp": x.exp(), "tokens": x > 0}


def test_nested_ones_and_keys_that_are_names_of_modules():
    found = names(made(Decoder()))
    assert found == [
        "attn", "lstm[0]", "lstm[1][0]", "lstm[1][1]", "exp", "output.logits",
        "output.past[0][0]", "output.past[0][1]", "output.past[1][0]", "output.attn", "output.exp",
    ]  # fmt: skip
    net = made(nn.ModuleDict({"block": Decoder(), "block2": nn.Tanh()}))
    net.forward = lambda x: net["block2"](net["block"](x)["attn"])
    found = names(net)
    assert found[-6:] == [
        "block.past[0][1]", "block.past[1][0]", "block['attn']", "block.exp", "block2", "output",
    ]  # fmt: skip
    f, z = layer_map(net, X, to="output", since="block['attn']")
    torch.testing.assert_close(f(z), z.tanh())
    torch.testing.assert_close(z, net["block"].attn(X))
    # The block has a part `exp`, so that its function is exp_1 from the first call on.
    for name, truth in (("exp", z.exp()), ("exp_1", net["block"].lstm(z)[0].exp())):
        torch.testing.assert_close(layer_map(net, X, to=f"block.{name}")[0](X), truth)


def test_modules_alone_have_parts_of_the_same_names():
    net = made(nn.Sequential(Decoder()))
    assert names(net, functions=False) == [
        depth.name for depth in depths(net, X) if depth.kind != "function"
    ]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Layer("model output")

    def forward(self, x):
        return self.layer(self.layer(x).logits).logits.chunk(3, -1)


def test_parts_of_a_layer_that_is_called_again_are_numbered():
    net = made(Twice())
    assert names(net) == [
        "layer.fc@1", "layer.tanh", "layer@1.logits", "layer.fc@2", "layer.tanh_1",
        "layer@2.logits", "output[0]", "output[1]", "output[2]",
    ]  # fmt: skip
    for asked in ("layer", "layer@1"):
        with pytest.raises(ModelError, match=rf"'{asked}' returns no tensor.*: layer@1\.logits"):
            layer_map(net, X, to=asked)
    with pytest.raises(ModelError, match=r"no depth 'layer.logits'.*did you mean layer@"):
        layer_map(net, X, to="layer.logits")


def test_a_part_of_what_a_function_returns():
    net = made(Twice())
    f, z = layer_map(net, X, to="chunk[1]", since="layer@1.logits")
    torch.testing.assert_close(f(z), net(X)[1])
    torch.testing.assert_close(f(2 * z), net.layer(2 * z).logits[:, 1:2])
    with pytest.raises(ModelError, match=r"'chunk' returns no tensor.*: chunk\[0\], chunk\[1\]"):
        layer_map(net, X, to="chunk")


def test_several_parts_in_one_pass():
    net = made(Decoder())
    wanted = ["output.past[1][0]", "lstm[0]", "attn", "output.logits", "output.past[1][0]"]
    values = layer_maps(net, X, wanted)(X)
    output = net(X)
    expected = [output["past"][1][0], output["past"][0][0], output["attn"], output["logits"]]
    for value, truth in zip(values, [*expected, expected[0]], strict=True):
        torch.testing.assert_close(value, truth)


def test_another_part_of_the_same_output_goes_around_a_part():
    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.halves = Twice()
            self.head = nn.Linear(2, 2)

        def forward(self, x):
            first, second, _ = self.halves(x)
            return self.head(torch.cat([first, second], -1))

    net = made(Split())
    with pytest.raises(
        ModelError, match=r"'halves\[0\]' is not a cut.* through 'halves\[1\]' \(Twice"
    ):
        layer_map(net, X, to="output", since="halves[0]")
    with pytest.raises(ModelError, match=r"'halves\[0\]' is not a cut.* 'halves\[1\]' \(Twice"):
        layer_map(net, X, to="halves[1]", since="halves[0]")
    assert layer_map(net, X, to="output", since="halves.layer@2.logits")[1].shape == (1, 3)


def test_what_a_module_keeps_of_its_output_is_not_changed():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)
            self.kept = []

        def forward(self, x):
            self.kept = [self.fc(x)]
            return self.kept

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.keeps = Keeps()

        def forward(self, x):
            return self.keeps(x)[0] * 2 + self.keeps.kept[0]

    net = made(Reads())
    with pytest.raises(ModelError, match=r"'keeps\[0\]' is not a cut"):
        layer_map(net, X, to="output", since="keeps[0]")
