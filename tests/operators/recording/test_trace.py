"""A recorded function replays at every other point of its kind."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError, NonFiniteError, TraceError
from jvpsvd.operators import Trace


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
        nn.Softmax(-1),
    ).eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replay_at_another_point_equals_the_dense_jacobian_there(dtype, dense):
    net = network().to(dtype)
    example, other = torch.randn(2, 1, 2, 4, 4, dtype=dtype)
    trace = Trace(net, example)
    for x in (other, example, -other):
        (J,) = trace.at(x)
        expected = dense(net, x)
        tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-14}
        torch.testing.assert_close(J.value, net(x.clone()).detach(), **tolerance)
        unit = torch.eye(32, dtype=dtype).reshape(32, *x.shape)
        torch.testing.assert_close(J.jvp(unit).reshape(32, 3), expected.T, **tolerance)
        unit = torch.eye(3, dtype=dtype).reshape(3, 1, 3)
        torch.testing.assert_close(J.vjp(unit).reshape(3, 32), expected, **tolerance)


def test_several_outputs_are_several_maps_of_one_point(dense):
    def fn(x):
        hidden = x.tanh()
        return hidden, hidden.outer(hidden), x.sum(), torch.ones(2, dtype=x.dtype)

    trace = Trace(fn, torch.zeros(3, dtype=torch.float64))
    x = torch.tensor([0.1, -0.4, 2.0], dtype=torch.float64)
    maps = trace.at(x)
    assert [m.value.shape for m in maps] == [(3,), (3, 3), (), (2,)]
    for index, linear_map in enumerate(maps):
        J = JacobianOperator.from_linear_map(linear_map)
        expected = dense(lambda z, index=index: fn(z)[index], x)
        torch.testing.assert_close(J @ torch.eye(3, dtype=x.dtype), expected)
        torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=x.dtype), expected.T)
        torch.testing.assert_close(linear_map.value, fn(x)[index])


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_points_in_another_memory_layout_than_the_example(layout, dense):
    net = network().double()
    other = torch.channels_last if layout == torch.contiguous_format else torch.contiguous_format
    example, x = torch.randn(2, 1, 2, 4, 4, dtype=torch.float64)
    trace = Trace(net, example.to(memory_format=layout))
    (J,) = trace.at(x.to(memory_format=other))
    found = JacobianOperator.from_linear_map(J) @ torch.eye(32, dtype=torch.float64)
    torch.testing.assert_close(found, dense(net, x))


def test_layouts_of_outputs_and_views_of_the_input(dense):
    x = torch.randn(3, 4, dtype=torch.float64)
    trace = Trace(lambda z: (z.T * 2, z.T.view(4, 3), z[1:, ::2]), torch.zeros_like(x).T.clone().T)
    for linear_map, fn in zip(
        trace.at(x), (lambda z: z.T * 2, lambda z: z.T, lambda z: z[1:, ::2]), strict=True
    ):
        J = JacobianOperator.from_linear_map(linear_map)
        expected = dense(fn, x)
        torch.testing.assert_close(J @ torch.eye(12, dtype=x.dtype), expected)
        torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=x.dtype), expected.T)


def test_a_point_changed_afterwards_does_not_move_its_maps():
    trace = Trace(lambda x: x**2, torch.zeros(2))
    x = torch.tensor([1.0, 2.0])
    (J,) = trace.at(x)
    x.zero_()
    assert J.point.tolist() == [1.0, 2.0]
    assert J.jvp(torch.ones(1, 2)).tolist() == [[2.0, 4.0]]


def test_maps_of_several_points_do_not_disturb_each_other():
    trace = Trace(lambda x: x**2, torch.zeros(1))
    maps = [trace.at(torch.tensor([float(i)]))[0] for i in range(4)]
    assert [m.vjp(torch.ones(1, 1)).item() for m in maps] == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    "x",
    [torch.zeros(2, 1), torch.zeros(3), torch.zeros(2, dtype=torch.float64)],
    ids=["shape", "size", "dtype"],
)
def test_points_of_another_kind_are_refused(x):
    with pytest.raises(TraceError, match="record again for this kind of point"):
        Trace(torch.sin, torch.zeros(2)).at(x)


def written_into(x):
    out = torch.zeros(4, dtype=x.dtype)
    out[:2] = x[:2] * x[2:4]
    return out


def backward_that_reads(x):
    return _Square.apply(x)


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient * ctx.saved_tensors[0]


WHERE = r"choose with torch\.where"
TAKE_OUT = r"at this point; take out what is random or keeps state"
CANNOT = {
    "branch": (lambda x: x if x.sum() > 0 else 2 * x, WHERE),
    "item": (lambda x: x * x.max().item(), WHERE),
    "numpy": (lambda x: torch.from_numpy(x.numpy() * 2), "compute it with torch alone"),
    "dropout": (lambda x: nn.functional.dropout(x, 0.5), TAKE_OUT),
    "random factor": (lambda x: x * torch.rand(()), TAKE_OUT),
    "written into": (written_into, r"torch\.stack or torch\.cat"),
    "strided": (lambda x: x.as_strided((2,), (2,)) ** 2, r"torch\.stack or torch\.cat"),
    "no setup_context": (backward_that_reads, r"write forward\(x\) and setup_context"),
    "no forward mode": (
        lambda x: nn.functional.grid_sample(
            x.reshape(1, 2, 5, 5), torch.zeros(1, 2, 2, 2), align_corners=False
        ),
        "with other operations",
    ),
}


@pytest.mark.parametrize("name", CANNOT)
@pytest.mark.filterwarnings("ignore:Converting a tensor:UserWarning")
def test_what_cannot_be_replayed_is_refused_when_recording_with_what_to_do(name):
    fn, remedy = CANNOT[name]
    with pytest.raises(TraceError, match=remedy) as caught:
        Trace(fn, torch.linspace(0.5, 1.0, 50))
    assert "\n" not in str(caught.value)


def test_an_output_whose_size_depends_on_the_point(dense):
    def positive(x):
        return x[x > 0] ** 2

    all_positive = JacobianOperator(positive, torch.linspace(0.5, 1.0, 5, dtype=torch.float64))
    x = torch.tensor([1.0, -1.0, 2.0, 3.0, -2.0], dtype=torch.float64)
    J = all_positive.at(x)
    expected = dense(positive, x)
    assert J.shape == (3, 5)
    torch.testing.assert_close(J @ torch.eye(5, dtype=x.dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(3, dtype=x.dtype), expected.T)


def test_state_outside_the_function_that_changed_is_noticed_at_the_next_point():
    scale = {"value": 1.0}
    trace = Trace(lambda x: x * scale["value"], torch.ones(2))
    assert trace.at(torch.ones(2))[0].value.tolist() == [1.0, 1.0]
    scale["value"] = 2.0
    with pytest.raises(TraceError, match=r"at this point; .*torch\.where, or record it there"):
        trace.at(torch.ones(2))


def test_new_weights_are_used_at_the_next_point():
    layer = nn.Linear(1, 1, bias=False)
    trace = Trace(layer, torch.ones(1))
    with torch.no_grad():
        layer.weight.fill_(3.0)
    (J,) = trace.at(torch.ones(1))
    assert J.value.item() == 3.0
    assert J.jvp(torch.ones(1, 1)).item() == 3.0
    assert J.vjp(torch.ones(1, 1)).item() == 3.0


@pytest.mark.parametrize("point", [-1.0, 0.0], ids=["nan", "infinity"])
def test_a_value_that_is_not_finite_is_named_as_such(point):
    trace = Trace(torch.log, torch.ones(2))
    (linear_map,) = trace.at(torch.tensor([point, 1.0]))
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        JacobianOperator.from_linear_map(linear_map)


@pytest.mark.parametrize("fn", [lambda x: [x], lambda x: (x, None), lambda x: x.long()])
def test_outputs_without_a_jacobian_are_refused(fn):
    with pytest.raises(ArgumentError, match="the function returned"):
        Trace(fn, torch.ones(2))


def test_recording_leaves_the_random_state_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    Trace(torch.sin, torch.ones(3)).at(torch.zeros(3))
    assert torch.random.get_rng_state().equal(before)


def test_the_graphs_hold_no_copies_left_by_in_place_operations():
    # In float32 there is one copy, which lays channels last.
    trace = Trace(network().double(), torch.randn(1, 2, 4, 4, dtype=torch.float64))
    (output,) = trace.recording.outputs
    graph = output.jvp.graph.graph
    names = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert any("convolution" in name for name in names)
    assert not any("copy" in name or "clone" in name for name in names)
