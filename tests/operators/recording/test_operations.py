"""Recorded operations give what the function gives, at other arguments and weights too."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv1d, scaled_dot_product_attention

from jvpsvd.operators.recording.operations import record_operations


def recorded(fn, *args):
    graph = record_operations(fn, *args)
    graph.recompile()
    return graph


WEIGHT = torch.linspace(-1, 1, 12).reshape(4, 3)
LAYER = nn.LayerNorm(3)
TABLE = torch.arange(4)


def changed_in_place(x):
    y = x.clone()
    y[0] += 1
    return y.mul_(2), x


def constant_changed_in_place(x):
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    scale.add_(1)
    return scale * x


FUNCTIONS = {
    "a number": lambda x: 2 * x,
    "a weight": lambda x: x.float() @ WEIGHT,
    "a module": lambda x: LAYER(x[:, :3].float()),
    "several results": lambda x: x.split([1, 3], 1),
    "one of several results": lambda x: x.max(0).values,
    "a list of tensors": lambda x: torch.cat([x, x.sin(), torch.ones(1, 4)]),
    "a list of lists": lambda x: torch.block_diag(x, x),
    "named arguments": lambda x: x.sum(dim=0, keepdim=True, dtype=torch.float64),
    "indices": lambda x: x[:, TABLE.flip(0)],
    "a change in place": changed_in_place,
    "a constant that is changed": constant_changed_in_place,
    "a constant that is returned": lambda x: (x, WEIGHT),
    "an argument that is returned": lambda x: x,
    "no dependence": lambda x: torch.ones(2),
    "convolution": lambda x: conv1d(x[None].float(), torch.ones(2, 4, 3), padding=1),
    "attention": lambda x: scaled_dot_product_attention(x[None], x[None], x[None]),
    "JVP": lambda x: torch.func.jvp(torch.tanh, (x,), (x.cos(),)),
    "VJP": lambda x: torch.func.vjp(torch.tanh, x)[1](x.cos())[0],
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_graph_gives_what_the_function_gives(function, dtype):
    first, second = torch.rand(2, 4, 4, dtype=dtype)
    with torch.no_grad():
        graph = recorded(function, first)
        torch.testing.assert_close(graph(second), function(second), rtol=0, atol=0)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_operations_are_those_of_make_fx_without_aliases(function):
    x = torch.rand(4, 4)
    with torch.no_grad():
        ours, theirs = record_operations(function, x), make_fx(function)(x)
    kinds = [
        sorted(str(n.target) for n in g.graph.nodes if n.op == "call_function" and n.users)
        for g in (ours, theirs)
    ]
    assert kinds[0] == [kind for kind in kinds[1] if kind != "aten.alias.default"]


def test_what_computes_nothing_is_not_recorded():
    """Of forward and reverse mode in one, half of the operations are aliases and comparisons."""
    x = torch.rand(4)
    product = lambda x, v, u: torch.func.vjp(  # noqa: E731
        lambda x: torch.func.jvp(torch.tanh, (x,), (v,)), x
    )[1]((u, u))
    with torch.no_grad():
        graph = record_operations(product, x, x.cos(), x.sin()).graph
        aten = torch.ops.aten
        for left_out in (aten.alias, aten.detach, aten.is_same_size, aten._has_same_storage_numel):
            assert not graph.find_nodes(op="call_function", target=left_out.default)


def test_a_change_of_an_alias_is_one_of_what_it_shares():
    def fn(x):
        y = x.clone()
        y.detach().mul_(2)
        return y

    x = torch.rand(3)
    with torch.no_grad():
        torch.testing.assert_close(recorded(fn, x)(x), 2 * x, rtol=0, atol=0)


def test_values_are_described():
    graph = recorded(lambda x: x.t().double(), torch.ones(2, 3)).graph
    for node in graph.find_nodes(op="placeholder"):
        assert node.meta["val"].shape == (2, 3)
    (last,) = graph.output_node().all_input_nodes
    value = last.meta["val"]
    assert (value.shape, value.dtype, value.device.type) == ((3, 2), torch.float64, "cpu")


def test_weights_are_read_where_they_are():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        graph = recorded(layer, torch.ones(3))
        held = {id(parameter) for parameter in graph.parameters()}
        assert held == {id(layer.weight), id(layer.bias)}
        layer.weight.mul_(2)
        assert torch.equal(graph(torch.ones(3)), layer(torch.ones(3)))


def test_a_weight_is_one_constant():
    layer = nn.Linear(3, 3)
    graph = recorded(lambda x: layer(layer(x)), torch.ones(3))
    assert len(list(graph.parameters())) == 2
    assert len(graph.graph.find_nodes(op="get_attr")) == 2


def test_intermediate_values_are_freed(only_new_objects):
    alive = []

    def fn(x):
        y = x.sin()
        alive.append(weakref.ref(y))
        y = y.cos()
        gc.collect()
        assert alive[0]() is None
        return y

    with torch.no_grad():
        record_operations(fn, torch.ones(3))


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: x.sum().item(),
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: torch.equal(x, x.sin()),
        lambda x: x.max(0, keepdim=True).values[0].item(),
        lambda x: torch.cat([torch.zeros(1), x.sin()]).sum().item(),
    ],
)
def test_numbers_that_depend_are_refused(reads):
    with pytest.raises(RuntimeError, match="reads a number that depends on the argument"):
        record_operations(lambda x: reads(x) * x, torch.ones(3))


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: WEIGHT.sum().item(),
        lambda x: bool((torch.arange(3) >= 0).all()),
        lambda x: torch.tensor(2.0).item(),
        lambda x: int(torch.tensor([1, 2]).max()),
        lambda x: torch.ones_like(x, device="cpu").shape[0],
    ],
)
def test_numbers_that_do_not_depend_are_read(reads):
    def fn(x):
        return reads(x) * x

    graph = recorded(fn, torch.ones(3))
    assert torch.equal(
        graph(torch.rand(3, generator=torch.manual_seed(0))),
        fn(torch.rand(3, generator=torch.manual_seed(0))),
    )


def test_weights_cast_before_are_cast_in_the_graph():
    layer = nn.Linear(3, 2)
    x = torch.rand(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)  # autocast keeps the weights in bfloat16
        graph = recorded(layer, x)
    assert {p.dtype for p in (*graph.parameters(), *graph.buffers())} == {torch.float32}
    with torch.no_grad():
        layer.weight.mul_(2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(graph(x), layer(x))
