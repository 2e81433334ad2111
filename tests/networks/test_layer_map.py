"""The map from the input, or a layer, to a layer: values, Jacobians and the chain rule."""

import copy
from collections import UserDict

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, depths, layer_map
from jvpsvd.errors import ModelError
from jvpsvd.networks import layer_maps

DTYPES = [torch.float32, torch.float64]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()
    return (
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.Sequential(norm, nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.Tanh(),
        )
        .to(dtype)
        .eval()
    )


def point(dtype=torch.float64):
    return torch.randn(1, 2, 4, 4, dtype=dtype, generator=torch.Generator().manual_seed(1))


def jacobian(fn, x):
    return torch.func.jacrev(lambda z: fn(z.clone()))(x).detach().reshape(-1, x.numel())


def dense(J):
    return J @ torch.eye(J.shape[1], dtype=J.dtype)


PREFIXES = {"0": 1, "1": 2, "2": 3, "4": 5, "output": 6}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("to", PREFIXES)
def test_from_the_input_it_is_the_network_cut_off_there(to, dtype):
    net, x = network(dtype), point(dtype)
    head = net[: PREFIXES[to]]
    f, z = layer_map(net, x, to=to)
    assert z is x
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(f(z), head(x), **tolerance)
    torch.testing.assert_close(f(2 * x), head(2 * x), **tolerance)
    torch.testing.assert_close(dense(JacobianOperator(f, z)), jacobian(head, x), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize(
    ("since", "to"), [("0", "output"), ("0", "1"), ("1.0", "2"), ("1", "4"), ("4", "5")]
)
def test_between_layers_the_chain_rule_holds(since, to, derivatives, dtype):
    net, x = network(dtype), point(dtype)

    def operator(**cut):
        f, z = layer_map(net, x, **cut)
        return JacobianOperator(f, z, derivatives=derivatives)

    whole, first, second = operator(to=to), operator(to=since), operator(to=to, since=since)
    tolerance = {"rtol": 0, "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(dense(second @ first), dense(whole), **tolerance)
    torch.testing.assert_close(second.value, whole.value, **tolerance)
    assert dense(whole).abs().max() > 1e-3


def test_between_layers_it_is_the_tail_of_the_network():
    net, x = network(), point()
    f, z = layer_map(net, x, to="output", since="1")
    tail = net[2:]
    torch.testing.assert_close(z, net[:2](x))
    torch.testing.assert_close(f(3 * z), tail(3 * z))
    torch.testing.assert_close(dense(JacobianOperator(f, z)), jacobian(tail, z.detach()))


def test_an_in_place_layer_after_the_cut_leaves_the_point_alone():
    net, x = network(), point()
    f, z = layer_map(net, x, to="output", since="1.0")
    before = z.clone()
    assert before.min() < 0  # the in-place ReLU that follows would have changed it
    f(z)
    assert z.equal(before)


def test_an_in_place_layer_at_the_input_leaves_the_point_alone():
    net = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    x = torch.tensor([[-1.0, 2.0]])
    f, z = layer_map(net, x, to="1")
    f(z)
    assert z.tolist() == [[-1.0, 2.0]]


def test_the_model_runs_no_further_than_the_depth():
    class Bomb(nn.Module):
        armed = False

        def forward(self, x):
            if self.armed:
                raise AssertionError("ran past the cut")
            return x

    net = nn.Sequential(nn.Linear(2, 2), Bomb()).eval()
    f, z = layer_map(net, torch.ones(1, 2), to="0")
    net[1].armed = True
    torch.testing.assert_close(f(z), net[0](z))


def test_from_a_container_and_into_one():
    net, x = network(), point()
    f, z = layer_map(net, x, to="1", since="1.1")
    identity = JacobianOperator(f, z)
    torch.testing.assert_close(dense(identity), torch.eye(64, dtype=torch.float64))


def test_each_call_of_a_reused_module_is_a_depth_of_its_own():
    torch.manual_seed(0)
    shared = nn.Linear(3, 3).double()
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Sigmoid())
    x = torch.randn(1, 3, dtype=torch.float64)
    first, z = layer_map(net, x, to="0@1")
    torch.testing.assert_close(first(z), shared(x))
    second, z = layer_map(net, x, to="0@2")
    torch.testing.assert_close(second(z), shared(shared(x).tanh()))
    between, z = layer_map(net, x, to="0@2", since="0@1")
    torch.testing.assert_close(z, shared(x))
    torch.testing.assert_close(
        dense(JacobianOperator(between, z)), jacobian(lambda v: shared(v.tanh()), z.detach())
    )


def test_the_input_may_be_a_dict_or_tuple_when_since_is_given():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)
            self.head = nn.Tanh()

        def forward(self, a, b):
            return self.head(self.left(a) * self.right(b))

    torch.manual_seed(0)
    net = Two().double().eval()
    a, b = torch.randn(1, 3, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    for x in ((a, b), {"b": b, "a": a}):
        f, z = layer_map(net, x, to="output", since="left")
        torch.testing.assert_close(z, net.left(a))
        torch.testing.assert_close(f(2 * z), (2 * z * net.right(b)).tanh())


class Denoiser(nn.Module):
    """Takes noise, a step and words, as networks of diffusion do, and keyword arguments."""

    def __init__(self):
        super().__init__()
        self.noise, self.words = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, sample, step, words=None, mask=None):
        y = self.noise(sample) * step
        return y if words is None else (y + self.words(words)).tanh() * mask


def denoiser_input():
    torch.manual_seed(0)
    sample, words = (torch.randn(1, n, dtype=torch.float64) for n in (3, 2))
    return {"sample": sample, "step": torch.tensor(7), "words": words, "mask": torch.tensor(1)}


@pytest.mark.parametrize("kind", [dict, UserDict, tuple])
def test_floating_arguments_are_differentiated_and_others_held_fixed(kind):
    torch.manual_seed(0)
    net, x = Denoiser().double().eval(), denoiser_input()
    f, z = layer_map(net, tuple(x.values()) if kind is tuple else kind(x), to="output")
    J = JacobianOperator(f, z)
    by_sample = jacobian(lambda z: net(**{**x, "sample": z}), x["sample"])
    by_words = jacobian(lambda z: net(**{**x, "words": z}), x["words"])
    torch.testing.assert_close(dense(J), torch.cat([by_sample, by_words], -1))


@pytest.mark.parametrize(("wrt", "columns"), [("sample", 3), ("words", 2), (["words"], 2)])
@pytest.mark.parametrize("kind", [dict, tuple])
def test_arguments_are_chosen_by_name_or_index(wrt, columns, kind):
    torch.manual_seed(0)
    net, x = Denoiser().double().eval(), denoiser_input()
    if kind is tuple:
        index = [*x].index(wrt if isinstance(wrt, str) else wrt[0])
        f, z = layer_map(net, tuple(x.values()), to="output", wrt=index)
    else:
        f, z = layer_map(net, x, to="output", wrt=wrt)
    name = wrt if isinstance(wrt, str) else wrt[0]
    expected = jacobian(lambda value: net(**{**x, name: value}), x[name])
    assert expected.shape == (4, columns)
    torch.testing.assert_close(dense(JacobianOperator(f, z)), expected)


@pytest.mark.parametrize(
    ("given", "wrt", "message"),
    [
        ({"sample": torch.ones(1, 3)}, "noise", "wrt='noise' is no argument.*it has 'sample'"),
        ((torch.ones(1, 3), torch.tensor(7)), 2, "wrt=2 is no argument of the input; it has 0, 1"),
        (torch.ones(1, 3), "sample", "wrt= chooses among several arguments"),
        (
            {"sample": torch.ones(1, 3), "step": torch.tensor(7)},
            "step",
            "wrt='step' holds no floating tensor, and integers have no derivative: choose another",
        ),
    ],
)
def test_arguments_that_are_not_there(given, wrt, message):
    with pytest.raises(ModelError, match=message):
        layer_map(Denoiser().eval(), given, to="output", wrt=wrt)


@pytest.mark.parametrize("as_dict", [True, False])
def test_token_ids_alone_are_refused_with_the_depth_to_start_from(as_dict):
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2))
    ids = torch.tensor([[1, 5, 2]])
    with pytest.raises(ModelError, match=r"token ids have no derivative.*as since='0'"):
        layer_map(net, {"input": ids} if as_dict else ids, to="1")


def test_the_depth_to_start_from_is_one_that_is_called():
    """Encoder-decoders of transformers hold one embedding more, whose weights theirs share."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.tokens = nn.Embedding(5, 4), nn.Embedding(5, 4)
            self.tokens.weight = self.shared.weight

        def forward(self, ids):
            return self.tokens(ids).tanh()

    net, ids = Shared().eval(), torch.tensor([[1, 3]])
    with pytest.raises(ModelError, match=r"as since='tokens'"):
        layer_map(net, ids, to="output")
    f, z = layer_map(net, ids, to="output", since="tokens")
    assert f(z).shape == z.shape == (1, 2, 4)


def test_from_a_depth_the_network_runs_once():
    class Counted(nn.Sequential):
        def forward(self, x):
            runs.append(1)
            return super().forward(x)

    runs = []
    net = Counted(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    layer_map(net, torch.ones(1, 3), to="2", since="0")
    assert len(runs) == 1


@pytest.mark.parametrize("since", [None, "0"])
def test_weights_of_a_cut_network_are_converted(since):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).bfloat16()
    x = torch.randn(1, 3).bfloat16()
    f, z = layer_map(net, x, to="output", since=since)
    J = JacobianOperator(f, z, dtype=torch.float64)
    tail = copy.deepcopy(net if since is None else net[1:]).double()
    torch.testing.assert_close(dense(J), jacobian(tail, z.double()).reshape(J.shape))
    assert net[0].weight.dtype == torch.bfloat16


def test_token_ids_are_differentiated_from_their_embedding():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    f, z = layer_map(net, torch.tensor([[1, 5, 2]]), to="2", since="0")
    assert z.shape == (1, 3, 4)
    torch.testing.assert_close(dense(JacobianOperator(f, z)), jacobian(net[1:], z.detach()))


def test_several_depths_in_one_pass():
    net, x = network(), point()
    wanted = ["output", "0", "1.0", "1", "0"]  # an in-place ReLU follows 1.0
    values = layer_maps(net, x, wanted)(x)
    for name, value in zip(wanted, values, strict=True):
        torch.testing.assert_close(value, layer_map(net, x, to=name)[0](x))
    torch.testing.assert_close(values[2], net[1][0](net[0](x)))
    assert values[2].min() < 0


def test_several_depths_come_after_the_one_to_start_from():
    with pytest.raises(ModelError, match="since='1' is not computed before to='0'"):
        layer_maps(network(), point(), ["output", "0"], since="1")


def test_a_transformer_layer_keeps_its_depths():
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval().double()
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    f, z = layer_map(net, x, to="linear2", since="norm1")
    torch.testing.assert_close(f(z), net.linear2(net.linear1(z).relu()))


@pytest.mark.parametrize(
    ("to", "since", "message"),
    [
        ("convolution", None, "no depth 'convolution' among the 9 of this model.*there are 0, 1.0"),
        ("outptu", None, "did you mean output"),
        ("output", "1.3", "no depth '1.3'.*did you mean 1.1 or 1.0"),
        ("", None, "no depth ''"),
        ("0", "4", "since='4' is not computed before to='0'; exchange them"),
        ("1.0", "1", "since='1' is not computed before to='1.0'"),
        ("4", "4", "since='4' and to='4' are the same depth; go to a later one"),
        ("0@1", None, "no depth '0@1'"),
        ("4", "input", "no depth 'input'.*; a map starts at the input unless since="),
    ],
)
def test_names_that_cannot_be_cut_at(to, since, message):
    with pytest.raises(ModelError, match=message) as caught:
        layer_map(network(), point(), to=to, since=since)
    assert "\n" not in str(caught.value)


def test_a_reused_module_must_be_numbered():
    shared = nn.ReLU()
    net = nn.Sequential(shared, nn.Linear(2, 2), shared)
    with pytest.raises(ModelError, match="'0' is called 2 times; say which: 0@1, 0@2"):
        layer_map(net, torch.ones(1, 2), to="0")
    with pytest.raises(ModelError, match=r"no depth '0@3'.*did you mean 0@"):
        layer_map(net, torch.ones(1, 2), to="0@3")


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(ModelError, match="training mode"):
        layer_map(network().train(), point(), to="output")


def test_a_path_that_is_not_taken_again_is_an_error():
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.rare = nn.Linear(2, 2)

        def forward(self, x):
            return self.rare(x) if x.sum() > 0 else x

    net = Sometimes().eval()
    f, z = layer_map(net, torch.ones(1, 2), to="rare")
    torch.testing.assert_close(f(z), net.rare(z))
    with pytest.raises(ModelError, match=r"never reached call 1 of 'rare'.*another path"):
        f(-z)


def test_hooks_are_removed_after_every_call():
    net, x = network(), point()
    f, z = layer_map(net, x, to="2", since="0")
    f(z)
    JacobianOperator(f, z) @ torch.ones(z.numel(), dtype=z.dtype)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_module_name_may_hold_an_at_sign():
    net = nn.ModuleDict({"a@b": nn.Linear(2, 2)})
    net.forward = lambda x: net["a@b"](x)
    assert [depth.name for depth in depths(net, torch.ones(1, 2))] == ["a@b", "output"]
    f, z = layer_map(net, torch.ones(1, 2), to="a@b")
    torch.testing.assert_close(f(z), net["a@b"](z))


def test_a_mask_that_is_missing_belongs_into_the_dict():
    class Masked(nn.Embedding):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids) * attention_mask[..., None]

    with pytest.raises(ModelError, match=r"give all of its arguments in one dict, as {'input_ids"):
        layer_map(Masked(3, 2).eval(), {"input_ids": torch.tensor([[1, 2]])}, to="output")
