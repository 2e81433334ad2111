"""Compiled, scripted, frozen and exported networks: as good as plain ones, or refused in a line."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, StreamedStack, depths, layer_map
from jvpsvd.errors import ModelError

POINT = torch.tensor([0.4, -0.3, 0.9])


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()


def compiled_inside(net):
    net[0] = torch.compile(net[0], backend="eager")
    return net


def compiled_in_place(net):
    net.compile(backend="eager")
    return net


MADE = {
    "compiled": lambda net: torch.compile(net, backend="eager"),
    "compiled twice": lambda net: torch.compile(
        torch.compile(net, backend="eager"), backend="eager"
    ),
    "compiled inside": compiled_inside,
    "compiled in place": compiled_in_place,
    "compiled function": lambda net: torch.compile(lambda x: net(x), backend="eager"),
    "scripted": torch.jit.script,
    "traced": lambda net: torch.jit.trace(net, POINT),
    "frozen": lambda net: torch.jit.freeze(torch.jit.script(net)),
    "exported": lambda net: torch.export.export(net, (POINT,)).module(),
}


@pytest.mark.filterwarnings("ignore")  # of torch.jit and torch.export themselves
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("name", MADE)
def test_its_jacobian_is_that_of_the_plain_network(name, derivatives):
    expected = JacobianOperator(plain(), POINT) @ torch.eye(3)
    J = JacobianOperator(MADE[name](plain()), POINT, derivatives=derivatives)
    torch.testing.assert_close(J @ torch.eye(3), expected)
    torch.testing.assert_close((J.T @ torch.eye(2)).T, expected)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MADE)
def test_its_stacked_jacobians_are_those_of_the_plain_network(name):
    A = StreamedStack.over(MADE[name](plain()), POINT[None])
    torch.testing.assert_close(A @ torch.ones(3), JacobianOperator(plain(), POINT) @ torch.ones(3))


@pytest.mark.parametrize("name", ["compiled", "compiled in place"])
def test_its_depths_are_those_of_the_plain_network(name):
    net = MADE[name](plain())
    assert depths(net, POINT) == depths(plain(), POINT)
    f, z = layer_map(net, POINT, to="2", since="0")
    g, y = layer_map(plain(), POINT, to="2", since="0")
    assert torch.equal(z, y)
    torch.testing.assert_close(f(z), g(y))


@pytest.mark.parametrize("name", ["compiled", "compiled in place"])
def test_its_parameters_have_the_names_of_the_plain_network(name):
    J = JacobianOperator.wrt_parameters(MADE[name](plain()), POINT, names=["2.bias"])
    assert list(J.as_input(J.T @ torch.ones(2))) == ["2.bias"]
    wide = JacobianOperator(MADE[name](plain()), POINT.double(), dtype=torch.float64)
    assert wide.dtype == torch.float64


def test_what_was_compiled_is_compiled_again_afterwards():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net = torch.compile(plain(), backend=backend)
    JacobianOperator(net, POINT) @ torch.ones(3)
    depths(net, POINT)
    assert graphs == []
    net(POINT)
    assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["scripted", "traced", "frozen"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda net: JacobianOperator(net, POINT.double(), dtype=torch.float64),
        lambda net: JacobianOperator.wrt_parameters(net, POINT),
    ],
)
def test_scripted_modules_cannot_be_given_other_weights(name, ask):
    with pytest.raises(ModelError, match=r"scripted, traced or frozen.*cannot be given other"):
        ask(MADE[name](plain()))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["scripted", "frozen"])
def test_scripted_modules_cannot_be_cut(name):
    net = MADE[name](plain())
    with pytest.raises(ModelError, match=r"'model' is scripted.*cannot be cut; pass the module"):
        depths(net, POINT)
    with pytest.raises(ModelError, match=r"'model' is scripted.*cannot be cut; pass the module"):
        layer_map(net, POINT, to="2")


@pytest.mark.filterwarnings("ignore")
def test_a_network_with_a_scripted_part_is_cut_around_it(caplog):
    net = nn.Sequential(torch.jit.script(plain()), nn.Tanh(), nn.Linear(2, 2)).eval()
    assert [depth.name for depth in depths(net, POINT)] == ["1", "2", "output"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith("module '0' is scripted, traced or frozen by torch.jit")
    f, z = layer_map(net, POINT, to="2", since="1")
    assert f(z).shape == (2,)
    assert len(caplog.records) == 1
    with pytest.raises(ModelError, match=r"no depth '0\.2' .*module '0' is scripted.*pass the"):
        layer_map(net, POINT, to="0.2")


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_says_why_it_has_its_output_alone(caplog):
    net = torch.jit.trace(plain(), POINT)
    assert [depth.name for depth in depths(net, POINT)] == ["output"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert "pass the module that it was made from; depths within it are not listed" in line
    with pytest.raises(ModelError, match=r"no depth '2' .*'model' is scripted, traced.*pass the"):
        layer_map(net, POINT, to="2")


def test_a_network_of_modules_says_nothing_of_scripts(caplog):
    depths(plain(), POINT)
    assert not caplog.records


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "ask",
    [
        lambda program: JacobianOperator(program, POINT),
        lambda program: JacobianOperator.wrt_parameters(program, POINT),
        lambda program: depths(program, POINT),
        lambda program: StreamedStack.over(program, POINT[None]),
    ],
)
def test_an_exported_program_is_no_module(ask):
    with pytest.raises(ModelError, match=r"ExportedProgram cannot be called; pass program.module"):
        ask(torch.export.export(plain(), (POINT,)))


@pytest.mark.filterwarnings("ignore")
def test_an_exported_network_with_dropout_at_work_is_random():
    torch.compiler.reset()  # torch 2.6 compiles a function only so many times in a process
    net = nn.Sequential(nn.Linear(3, 64), nn.Dropout(0.5)).train()
    with pytest.raises(Exception, match="two different values"):
        JacobianOperator(torch.export.export(net, (POINT,)).module(), POINT)
