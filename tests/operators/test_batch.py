"""The Jacobians at many points are one operator, and each of them is what it is alone."""

import logging

import numpy as np
import pytest
import torch
from support.batch_problems import (
    BUILDS,
    DTYPES,
    cannot_be_batched_twice,
    check,
    convnet,
    looks_at_values,
    mlp,
    other_path_below_zero,
    problem,
    transformer,
)
from support.thinned import thinned
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError, TraceError
from jvpsvd.operators import Products, Trace


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", BUILDS)
def test_a_batch_is_its_points(build, dtype):
    J, singles = problem(build, dtype)
    check(J, singles)
    for index, single in enumerate(singles):
        assert J.point[index].equal(single.point)
        torch.testing.assert_close(J.value[index], single.value)


WAYS = ("trace", "transforms")
SMALL = (mlp, convnet, cannot_be_batched_twice)


@thinned("chunk, derivatives, build", [1, 2, 3, 7, 100], WAYS, SMALL, keep=2)
def test_every_chunk_gives_the_same_products(chunk, derivatives, build):
    check(*problem(build, torch.float64, count=5, chunk=chunk, derivatives=derivatives))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 100])
def test_automatic_differentiation_never_sees_more_vectors_than_a_chunk(chunk):
    (J,) = Trace(torch.square, torch.zeros(2)).at_many(torch.ones(5, 2))
    seen = []

    class Counted:
        together = True

        def __call__(self, block, points):
            seen.append(block.shape[:2].numel())
            return J.jvp_product(block, points)

    counted = type(J)(J.point, J.value, Counted(), J.vjp_product)
    A = JacobianOperator.from_linear_map(counted, chunk=chunk)
    assert (A @ torch.ones(2, 3)).eq(2).all()
    assert sum(seen) == 15
    assert max(seen) <= chunk


def test_the_chunk_of_a_batch_depends_on_what_is_on_the_way():
    def through(width):
        net = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 2))
        return JacobianOperator(net, torch.ones(3, 2), batch_dims=1)

    assert through(4).chunk > through(1 << 14).chunk >= 1
    assert through(4).select([0, 1]).chunk == through(4).chunk


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("build", BUILDS)
def test_a_selection_is_its_points_and_counts_on_the_whole(build, dtype):
    J, singles = problem(build, dtype)
    for index in ([2, 0, 2], torch.tensor([3]), range(4), [np.int64(1)]):
        before = J.products
        chosen = J.select(index)
        assert chosen.products == Products(0, 0)
        check(chosen, [singles[i] for i in index])
        assert chosen.products == J.products.since(before)
        assert chosen.products.forward == 4 * 3 * len(index)
    twice = J.select([3, 1]).select([1])
    check(twice, [singles[1]])


def test_a_selection_evaluates_nothing_again():
    calls = []

    def fn(x):
        calls.append(1)
        return x**2

    J = JacobianOperator(fn, torch.ones(3, 2), batch_dims=1)
    J @ torch.ones(2)
    before = len(calls)
    J.select([0, 2]) @ torch.ones(2)
    assert len(calls) == before


def test_the_memory_layout_of_the_points_makes_no_difference():
    torch.manual_seed(0)
    net = convnet()[0].double().eval()
    X = torch.randn(3, 1, 6, 6, 2, dtype=torch.float64).permute(0, 1, 4, 2, 3)
    for points in (X, X.contiguous(), X.transpose(0, 1).contiguous().transpose(0, 1)):
        J = JacobianOperator(net, points, batch_dims=1, derivatives="trace")
        singles = [JacobianOperator(net, x, derivatives="transforms") for x in X]
        check(J, singles)
        check(J.select([2, 0]), [singles[2], singles[0]])


def test_one_point_in_a_batch():
    J = JacobianOperator(torch.square, torch.tensor([[1.0, 3.0]]), batch_dims=1)
    assert J.shape == (1, 2, 2)
    assert (J @ torch.ones(2)).tolist() == [[2.0, 6.0]]


def test_points_and_values_without_dimension():
    J = JacobianOperator(lambda x: x**3, torch.tensor([1.0, 2.0]), batch_dims=1)
    assert J.shape == (2, 1, 1)
    assert (J @ torch.ones(1)).tolist() == [[3.0], [12.0]]
    assert (J.T @ torch.ones(1)).tolist() == [[3.0], [12.0]]


def test_outputs_that_depend_on_nothing_or_on_half():
    def fn(x):
        return torch.cat([torch.ones(2), x[:1] ** 2])

    X = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    check(JacobianOperator(fn, X, batch_dims=1), [JacobianOperator(fn, x) for x in X])

    def constant(x):
        return torch.ones(3)

    J = JacobianOperator(constant, X, batch_dims=1)
    assert J.value.tolist() == [[1.0] * 3] * 2
    assert (J @ torch.ones(2, 4)).eq(0).all()
    assert (J.T.select([1]) @ torch.ones(3, 4)).eq(0).all()


def test_several_depths_of_one_recording():
    def fn(x):
        hidden = x.tanh()
        return hidden, hidden.outer(hidden), torch.ones(2, dtype=x.dtype)

    X = torch.randn(4, 3, dtype=torch.float64)
    trace = Trace(fn, torch.zeros(3, dtype=torch.float64))
    for index, many in enumerate(trace.at_many(X)):
        singles = [JacobianOperator.from_linear_map(trace.at(x)[index]) for x in X]
        check(JacobianOperator.from_linear_map(many), singles)


def test_weights_get_no_dimension_for_the_points():
    net = convnet()[0].eval()
    (J,) = Trace(net, torch.zeros(1, 2, 6, 6)).at_many(torch.randn(5, 1, 2, 6, 6))
    # VJPs have the kernels turned round.
    kernels = {(4, 2, 3, 3), (3, 4, 2, 2)}, {(2, 4, 3, 3), (4, 3, 2, 2)}
    for side, expected in zip((J.jvp_product, J.vjp_product), kernels, strict=True):
        shapes = {tuple(t.shape) for t, v in zip(side.inputs, side.varies, strict=True) if not v}
        assert expected <= shapes
        assert all(t.shape[0] == 5 for t, v in zip(side.inputs, side.varies, strict=True) if v)


def test_what_can_be_replayed_at_once_is_and_leaves_no_line_in_the_log(caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        for build in (mlp, convnet, transformer):
            fn, shape = build()
            (linear_map,) = Trace(fn.eval(), torch.randn(shape)).at_many(torch.randn(4, *shape))
            J = JacobianOperator.from_linear_map(linear_map)
            J @ torch.ones(J.shape[-1])
            assert linear_map.jvp_product.together
    assert not caplog.records


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (looks_at_values, "cannot record the function"),
        (cannot_be_batched_twice, "replaying the points one by one"),
    ],
)
def test_what_cannot_be_leaves_one_line(build, message, caplog):
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J, _ = problem(build, torch.float32)
        J @ torch.ones(J.shape[-1])
        J.T @ torch.ones(J.shape[-2])
        J.select([0]) @ torch.ones(J.shape[-1])
    (record,) = caplog.records
    assert message in record.getMessage()
    assert "\n" not in record.getMessage()


def test_a_point_on_another_path_is_named_or_handled(caplog):
    X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [-1.0, -2.0]])
    with pytest.raises(TraceError, match=r"differs from its recording at point 2 of the batch"):
        JacobianOperator(other_path_below_zero, X, batch_dims=1, derivatives="trace")
    with caplog.at_level(logging.WARNING, logger="jvpsvd"):
        J = JacobianOperator(other_path_below_zero, X, batch_dims=1)
    assert (J @ torch.ones(2)).tolist() == [[2.0, 4.0], [6.0, 8.0], [3.0, 3.0]]
    assert "at point 2 of the batch" in caplog.text


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_grad_modes_of_the_caller_make_no_difference(mode, derivatives):
    net = nn.Linear(3, 2)
    with mode():
        J = JacobianOperator(net, torch.ones(4, 3), batch_dims=1, derivatives=derivatives)
        forward, reverse = J @ torch.eye(3), J.select([1]).T @ torch.eye(2)
    torch.testing.assert_close(forward.clone(), net.weight.detach().expand(4, 2, 3))
    torch.testing.assert_close(reverse.clone(), net.weight.detach().T[None])
    assert not forward.requires_grad
    assert not reverse.requires_grad


def test_the_points_are_a_copy():
    X = torch.ones(3, 2)
    J = JacobianOperator(torch.square, X, batch_dims=1)
    X.zero_()
    assert (J @ torch.ones(2)).eq(2).all()


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_weights_changed_before_the_first_product_are_noticed(derivatives):
    layer = nn.Linear(2, 2)
    J = JacobianOperator(layer, torch.ones(3, 2), batch_dims=1, derivatives=derivatives)
    with torch.no_grad():
        layer.weight.add_(1.0)
    with pytest.raises(ArgumentError, match="the weights have changed"):
        J @ torch.ones(2)


def test_weights_changed_later_are_noticed():
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    J = JacobianOperator(net, torch.ones(3, 2), batch_dims=1)
    J @ torch.ones(2)
    chosen = J.select([1])
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    for use in (J.matvec, J.rmatvec, chosen.matvec, chosen.rmatvec):
        with pytest.raises(ArgumentError, match="weights have changed"):
            use(torch.ones(2))
    with pytest.raises(ArgumentError, match="weights have changed"):
        J.select([0]).matvec(torch.ones(2))
