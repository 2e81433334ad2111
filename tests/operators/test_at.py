"""`J.at`: the derivative at another point, replayed, and never that of an earlier function."""

import copy
import functools
import itertools
import types

import numpy as np
import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, layer_map
from jvpsvd.errors import ArgumentError, ModelError, NonFiniteError

DTYPE = torch.float64
DERIVATIVES = ["trace", "transforms"]


class Square(torch.autograd.Function):
    """x², whose backward can be exchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, u):
        return 2 * ctx.saved_tensors[0] * u

    @staticmethod
    def jvp(ctx, v):
        return 2 * ctx.saved_tensors[0] * v


class Net(nn.Module):
    """A convolution that folds with its norm, and a head with much that can be changed."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(2, 3, 3, padding=1), nn.BatchNorm1d(3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2.0)
        self.head, self.second = nn.Linear(12, 4), nn.Linear(4, 4)
        self.scale, self.cut, self.options = 1.0, False, {"power": 1}
        self.settings = types.SimpleNamespace(negative=False)
        self.register_buffer("shift", torch.tensor(0.5))

    def forward(self, x):
        y = torch.tanh(self.norm(self.conv(x)))
        y = self.second(torch.sin(self.head(y.flatten(1)))) ** self.options["power"]
        y = self.scale * (y + self.shift)
        y = y + (y.detach() if self.cut else y)
        return -y if self.settings.negative else y


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().to(DTYPE).eval()


def points(count=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 2, 4, dtype=DTYPE, generator=generator)


@pytest.fixture
def recordings(monkeypatch):
    """How often anything has been recorded."""
    made = []
    from jvpsvd.operators.recording import by_size

    record = by_size.record
    monkeypatch.setattr(by_size, "record", lambda *a, **k: made.append(1) or record(*a, **k))
    return made


def test_a_further_point_replays_the_recording(net, dense, recordings):
    J = JacobianOperator(net, points()[0], derivatives="trace")
    for x in points()[1:]:
        moved = J.at(x)
        assert type(moved) is JacobianOperator
        torch.testing.assert_close(moved.to_dense(), dense(net, x))
        torch.testing.assert_close(moved.value, net(x).detach())
        assert moved.products.total == 4
    assert len(recordings) == 1
    assert J.products.total == 0
    torch.testing.assert_close(J.to_dense(), dense(net, points()[0]))


def test_a_further_point_costs_two_evaluations(net):
    J = JacobianOperator(net, points()[0], derivatives="trace")
    calls = itertools.count()

    def count(module, args, output):
        next(calls)

    net.head.register_forward_hook(count)
    J = J.at(points()[0])  # taken anew: the hook is new
    before = next(calls)
    J.at(points()[1]).at(points()[2])
    assert next(calls) - before - 1 == 2  # beside each of which the recording runs once


def halve_in_place(net):
    with torch.no_grad():
        net.head.weight.mul_(0.5)


def halve_data(net):
    net.head.weight.data.mul_(0.5)


def halve_folded_data(net):
    net.conv.weight.data.mul_(0.5)


def assign_data(net):
    net.head.weight.data = net.head.weight.data * 0.5


def assign_data_slightly(net):
    net.head.weight.data = net.head.weight.data * (1 + 1e-9)


def load(net):
    net.load_state_dict({name: 0.5 * t for name, t in net.state_dict().items()}, strict=False)


def load_assigned(net):
    state = {name: 0.5 * t for name, t in net.state_dict().items()}
    net.load_state_dict(state, assign=True, strict=False)


def set_parameter(net):
    net.head.weight = nn.Parameter(0.5 * net.head.weight.detach())


def set_module(net):
    net.head = nn.Linear(12, 4).to(DTYPE)


def swap_parameters(net):
    a, b = nn.Linear(4, 4).to(DTYPE), net.second
    net.second.weight, a.weight = a.weight, b.weight


def swap_tensors(net):
    torch.utils.swap_tensors(net.head.weight, nn.Parameter(0.5 * net.head.weight.detach()))


def change_buffer(net):
    net.norm.running_mean.add_(0.3)


def replace_buffer(net):
    net.shift = torch.tensor(0.7, dtype=DTYPE)
    net.norm.running_var = net.norm.running_var * 2


def add_hook(net):
    net.head.register_forward_hook(lambda module, args, output: output.detach() * 0 + 2 * output)


def add_cutting_hook(net):
    net.second.register_forward_hook(lambda module, args, output: output.detach() / 2 + output / 2)


def add_pre_hook(net):
    net.head.register_forward_pre_hook(lambda module, args: (2 * args[0],))


def change_attribute(net):
    net.scale = 2.0


def change_attribute_of_torch(net):
    net.norm.eps = 0.5


def switch_detach_on(net):
    net.cut = True


def change_entry(net):
    net.options["power"] = 3


def change_inner_attribute(net):
    net.settings.negative = True


def replace_forward(net):
    net.second.forward = lambda x: x + x.detach() - x.detach() ** 1


def parametrize(net):
    nn.utils.parametrizations.weight_norm(net.head)
    with torch.no_grad():
        net.head.parametrizations.weight.original0.mul_(2)
    net.eval()


CHANGES = [
    halve_in_place,
    halve_data,
    halve_folded_data,
    assign_data,
    assign_data_slightly,
    load,
    load_assigned,
    set_parameter,
    set_module,
    swap_parameters,
    swap_tensors,
    change_buffer,
    replace_buffer,
    add_hook,
    add_cutting_hook,
    add_pre_hook,
    change_attribute,
    change_attribute_of_torch,
    switch_detach_on,
    change_entry,
    change_inner_attribute,
    replace_forward,
    parametrize,
]


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("derivatives", ["trace", "trace, weights in place", "transforms"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_changed_network_has_its_own_derivative(change, derivatives, net, dense, monkeypatch):
    if derivatives == "trace, weights in place":
        monkeypatch.setattr("jvpsvd.operators.recording.constants.COPIED_BYTES", 0)
        derivatives = "trace"
    if change is swap_tensors and derivatives == "transforms":
        pytest.skip("torch swaps no tensors that a graph of autograd holds")
    x, z = points(2)
    J = JacobianOperator(net, x, derivatives=derivatives, check=False)
    before = dense(net, z)
    torch.testing.assert_close(J.at(z).to_dense(), before)
    change(net)
    after = dense(net, z)
    exact = {"rtol": 0, "atol": 1e-13}
    torch.testing.assert_close(J.at(z).to_dense(), after, **exact)
    assert change.__name__ == "assign_data_slightly" or (after - before).norm() > 1e-3
    torch.testing.assert_close(J.at(x).to_dense(), dense(net, x), **exact)


def test_a_hook_that_is_removed_is_gone(net, dense):
    x, z = points(2)
    handle = net.second.register_forward_hook(lambda m, a, out: out.detach() / 2 + out / 2)
    J = JacobianOperator(net, x, check=False)
    cut = dense(net, z)
    torch.testing.assert_close(J.at(z).to_dense(), cut)
    handle.remove()
    torch.testing.assert_close(J.at(z).to_dense(), 2 * cut)


def test_hooks_of_all_modules_are_seen(net, dense):
    x, z = points(2)
    J = JacobianOperator(net, x, check=False)
    before = dense(net, z)

    def halve(module, args, output):
        return output.detach() / 2 + output / 2 if module is net.second else None

    handle = nn.modules.module.register_module_forward_hook(halve)
    try:
        torch.testing.assert_close(J.at(z).to_dense(), before / 2)
    finally:
        handle.remove()


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_network_set_to_training_is_refused_as_by_a_new_operator(derivatives, net, dense):
    x, z = points(2)
    J = JacobianOperator(net, x, derivatives=derivatives)
    net.train()
    with pytest.raises(ModelError, match=r"training mode; call model\.eval"):
        J.at(z)
    net.eval()
    torch.testing.assert_close(J.at(z).to_dense(), dense(net, z))


def test_mode_is_seen_where_it_is_no_error(dense):
    class Doubling(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            y = self.inner(x)
            return y + (y if self.inner.training else y.detach())

    net = Doubling().to(DTYPE).eval()
    net.inner.eval()
    x = torch.ones(3, dtype=DTYPE)
    J = JacobianOperator(lambda z: net(z), x, check=False)
    net.inner.train()
    torch.testing.assert_close(J.at(x).to_dense(), 2 * net.inner.weight.detach())


def test_toggled_requires_grad_is_seen(dense):
    weight = nn.Parameter(torch.eye(3, dtype=DTYPE))

    def fn(x):
        y = weight @ x
        return y if weight.requires_grad else y.detach() / 2 + y / 2

    x = torch.ones(3, dtype=DTYPE)
    J = JacobianOperator(fn, x, check=False)
    weight.requires_grad_(False)
    torch.testing.assert_close(J.at(x).to_dense(), 0.5 * torch.eye(3, dtype=DTYPE))


CUT = False
SWITCH = types.ModuleType("switch")
SWITCH.CUT = False


def by_global(x):
    y = x**2
    return y + (y.detach() if CUT else y)


def by_inner_function(x):
    return by_global(x)


def by_name_of_a_module(x):
    y = x**2
    return y + (y.detach() if SWITCH.CUT else y)


@pytest.mark.parametrize("fn", [by_global, by_inner_function, lambda x: by_global(x)])
def test_a_global_that_switches_a_detach_on_is_seen(fn, monkeypatch):
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(fn, x, check=False)
    monkeypatch.setitem(globals(), "CUT", True)
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_a_setting_of_a_python_module_is_seen(monkeypatch):
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(by_name_of_a_module, x, check=False)
    monkeypatch.setattr(SWITCH, "CUT", True)
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_what_a_function_closes_over_is_seen():
    cut, weights = [False], np.ones(2)

    def fn(x):
        y = x**2 * torch.from_numpy(weights)
        return y + (y.detach() if cut[0] else y)

    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(fn, x, check=False)
    torch.testing.assert_close(J.at(x).to_dense(), 4 * torch.eye(2, dtype=DTYPE))
    cut[0] = True
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))
    weights *= 1 + 1e-10
    torch.testing.assert_close(
        J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE) * (1 + 1e-10), rtol=0, atol=1e-14
    )


def marked(x, weight):
    return x**2 + (x.detach() ** 2 if getattr(weight, "cut", False) else x**2)


def test_an_attribute_of_a_tensor_is_seen():
    x, weight = torch.ones(2, dtype=DTYPE), torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(marked, x, args=(weight,), check=False)
    weight.cut = True
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_another_key_of_the_same_value_is_seen():
    x, cut = torch.ones(2, dtype=DTYPE), {1: "cut"}

    def fn(x):
        return x**2 + (x.detach() ** 2 if 2 in cut else x**2)

    J = JacobianOperator(fn, x, check=False)
    cut.clear()
    cut[2] = "cut"
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_a_function_without_a_module_is_read():
    x, scope = torch.ones(2, dtype=DTYPE), {}
    exec("CUT = False\ndef fn(x): return x**2 + (x.detach()**2 if CUT else x**2)", scope)  # noqa: S102
    J = JacobianOperator(scope["fn"], x, check=False)
    scope["CUT"] = True
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_what_a_cached_function_holds_is_seen():
    x, cut = torch.ones(2, dtype=DTYPE), [False]

    @functools.lru_cache(maxsize=0)
    def power(factor):
        return lambda x: factor * (x**2 + (x.detach() ** 2 if cut[0] else x**2))

    J = JacobianOperator(lambda x: power(1)(x), x, check=False)
    cut[0] = True
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_a_switch_in_the_class_is_seen():
    class Cutting(nn.Module):
        cut = False

        def forward(self, x):
            return x**2 + (x.detach() ** 2 if self.cut else x**2)

    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(Cutting().eval(), x, check=False)
    Cutting.cut = True
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))


def test_a_method_replaced_in_a_class_is_seen(monkeypatch, net):
    class Head(nn.Module):
        def forward(self, x):
            return self.squared(x)

        def squared(self, x):
            return x**2

    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(Head().eval(), x, check=False)
    monkeypatch.setattr(Head, "squared", lambda self, x: x.detach() * x)
    torch.testing.assert_close(J.at(x).to_dense(), torch.eye(2, dtype=DTYPE))


def test_another_backward_of_a_custom_function_is_seen(monkeypatch):
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(lambda z: Square.apply(z), x, check=False)
    torch.testing.assert_close(J.at(x).to_dense(), 2 * torch.eye(2, dtype=DTYPE))
    monkeypatch.setattr(Square, "backward", staticmethod(lambda ctx, u: 5 * u))
    monkeypatch.setattr(Square, "jvp", staticmethod(lambda ctx, v: 5 * v))
    torch.testing.assert_close(J.at(x).to_dense(), 5 * torch.eye(2, dtype=DTYPE))


def test_numbers_read_from_weights_are_seen_through_data():
    scale = torch.tensor(2.0, dtype=DTYPE)
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(lambda z: 1e6 + z * scale.item(), x, check=False)
    scale.data.mul_(2)
    torch.testing.assert_close(J.at(x).to_dense(), 4 * torch.eye(2, dtype=DTYPE))


def test_converted_weights_are_seen_through_data(net):
    layer = nn.Linear(2, 2).bfloat16()
    x = torch.ones(2)
    J = JacobianOperator(layer, x, dtype=torch.float32, check=False)
    with torch.no_grad():
        layer.bias.fill_(1e6)
    J = J.at(x)
    layer.weight.data.mul_(2)
    torch.testing.assert_close(J.at(x).to_dense(), layer.weight.detach().float())


def test_arguments_changed_in_place_are_seen():
    mask = torch.tensor([1.0, 1.0], dtype=DTYPE)
    x = torch.ones(2, dtype=DTYPE)
    for given in ({"args": (mask,)}, {"kwargs": {"m": mask}}):
        mask.fill_(1.0)
        J = JacobianOperator(lambda x, m: x * m, x, **given)
        mask[0] = 3.0
        torch.testing.assert_close(J.at(x).to_dense(), mask.diag())


def test_control_flow_on_the_point_is_seen(dense):
    def fn(x):
        return x**2 if float(x.detach().sum()) > 0 else torch.sin(x)

    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(fn, x)
    for z in (x, -x, 2 * x):
        torch.testing.assert_close(J.at(z).to_dense(), dense(fn, z))


def test_control_flow_outside_of_torch_is_seen(dense):
    seen = []

    def fn(x):
        seen.append(1)
        return x**2 if x.shape[0] == 2 and len(seen) < 1000 else x

    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(fn, x)
    seen.extend([1] * 1000)
    torch.testing.assert_close(J.at(2 * x).to_dense(), torch.eye(2, dtype=DTYPE))


def test_a_batch_moves_to_any_number_of_points(net, dense, recordings):
    J = JacobianOperator(net, points(3), batch_dims=1, derivatives="trace")
    for count in (1, 5):
        X = -points(count)
        moved = J.at(X)
        assert moved.shape == (count, 4, 8)
        torch.testing.assert_close(moved.to_dense(), torch.stack([dense(net, x) for x in X]))
    assert len(recordings) == 1
    halve_folded_data(net)
    torch.testing.assert_close(J.at(X).to_dense(), torch.stack([dense(net, x) for x in X]))


def test_a_tree_of_tensors_moves_with_its_fixed_leaves(recordings):
    def fn(p):
        return {"y": p["a"][p["index"]] ** 2 * p["b"]}

    def point(index):
        return {
            "a": torch.arange(1.0, 4.0, dtype=DTYPE),
            "b": torch.full((2,), 2.0, dtype=DTYPE),
            "index": torch.tensor(index),
        }

    J = JacobianOperator(fn, point([0, 1]), derivatives="trace")
    for index in ([0, 1], [2, 1]):
        moved = J.at(point(index))
        y = moved.as_output(moved @ torch.ones(5, dtype=DTYPE))["y"]
        a = point(index)["a"][index]
        torch.testing.assert_close(y, 4 * a + a**2)
    assert len(recordings) == 2


def test_a_sparse_leaf_is_held_fixed():
    def fn(tree):
        return tree[0].tanh() * tree[1].to_dense()

    x, counts = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([1, 0, 2])
    sparse = counts.to_sparse()
    J = JacobianOperator(fn, (x, sparse))
    slope = 1 - (2 * x).tanh() ** 2
    for leaf in (sparse, counts.to_sparse()):  # the same object, and an equal one
        torch.testing.assert_close(J.at((2 * x, leaf)).to_dense(), torch.diag(slope * counts))
    other = J.at((2 * x, (3 * counts).to_sparse()))
    torch.testing.assert_close(other.to_dense(), torch.diag(3 * slope * counts))
    sparse.mul_(3)
    torch.testing.assert_close(J.at((2 * x, sparse)).to_dense(), torch.diag(3 * slope * counts))


def test_other_parameters_of_a_model(net):
    x = points(1)[0]
    J = JacobianOperator.wrt_parameters(net, x, names=["head.weight"])
    theta = {"head.weight": 2 * net.head.weight.detach()}
    changed = copy.deepcopy(net)
    changed.load_state_dict({**net.state_dict(), **theta})
    expected = JacobianOperator.wrt_parameters(changed, x, names=["head.weight"])
    torch.testing.assert_close(J.at(theta).to_dense(), expected.to_dense())
    change_buffer(net)
    change_buffer(changed)
    expected = JacobianOperator.wrt_parameters(changed, x, names=["head.weight"])
    torch.testing.assert_close(J.at(theta).to_dense(), expected.to_dense())


def test_a_layer_map_moves(net, dense):
    f, z = layer_map(net, points(1)[0], to="second", since="conv")
    J = JacobianOperator(f, z)
    torch.testing.assert_close(J.at(2 * z).to_dense(), dense(f, 2 * z))
    halve_data(net)
    torch.testing.assert_close(J.at(2 * z).to_dense(), dense(f, 2 * z))


def test_a_scripted_network_moves(dense):
    net = torch.jit.trace(nn.Linear(2, 2).to(DTYPE), torch.ones(2, dtype=DTYPE)).eval()
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(net, x)
    with torch.no_grad():
        net.weight.mul_(2)
    torch.testing.assert_close(J.at(2 * x).to_dense(), net.weight.detach())


def test_a_frozen_network_moves():
    layer = nn.Linear(2, 2).to(DTYPE).eval()
    x = torch.ones(2, dtype=DTYPE)
    J = JacobianOperator(torch.jit.freeze(torch.jit.trace(layer, x)), x)
    torch.testing.assert_close(J.at(2 * x).to_dense(), layer.weight.detach())


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(3, dtype=DTYPE), r"float64 \(2,\) on cpu, and x is torch.float64 \(3,\)"),
        (torch.ones(2), r"x is torch.float32 \(2,\).*make a new JacobianOperator"),
        (None, r"no tensor"),
    ],
)
def test_a_point_of_another_kind_is_refused_in_one_line(x, message):
    J = JacobianOperator(torch.square, torch.ones(2, dtype=DTYPE))
    with pytest.raises(ArgumentError, match=message) as caught:
        J.at(x)
    assert "\n" not in str(caught.value)


def test_a_value_that_is_not_finite_names_its_module():
    net = nn.Sequential(nn.Identity(), nn.LayerNorm(2, eps=0.0)).to(DTYPE)
    J = JacobianOperator(net, torch.tensor([1.0, 2.0], dtype=DTYPE))
    with pytest.raises(NonFiniteError, match=r"module '1' \(LayerNorm\)"):
        J.at(torch.zeros(2, dtype=DTYPE))


def test_options_stay(net):
    J = JacobianOperator(net, points(1)[0], chunk=3, tf32=True).at(points(2)[1])
    assert J.chunk == 3
    assert J.at(points(2)[0])._tf32


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("names", "match"),
    [("a", r"x has no \['b'\]"), ("abc", r"the first point has no \['c'\], and x has")],
)
def test_an_entry_of_a_dict_that_only_one_point_has_is_named(batch, names, match):
    one = torch.ones(1, 3) if batch else torch.ones(3)
    J = JacobianOperator(lambda p: p["a"] * p["b"], {"a": one, "b": one}, batch_dims=int(batch))
    with pytest.raises(ArgumentError, match=match):
        J.at(dict.fromkeys(names, one))
