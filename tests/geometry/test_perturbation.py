import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.geometry_problems import matrix, network, normal, rounding
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError, ModelError, NonFiniteError
from jvpsvd.geometry import (
    linearity_range,
    normal_directions,
    perturbation_response,
    random_directions,
    random_space,
)
from jvpsvd.networks.depths import layer_map, layer_maps

QUICK = settings(max_examples=30, deadline=None, derandomize=True)
DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_along_singular_vectors_the_response_is_the_singular_value(dtype):
    s = torch.tensor([7.0, 4.0, 1.0, 0.25], dtype=torch.float64)
    A, V = matrix(6, 9, s)
    offset, x = normal(6, seed=5, dtype=dtype), normal(9, seed=6, dtype=dtype)
    far = [0.5, 1.0, 3.0, 20.0]
    r = perturbation_response(lambda z: A.to(dtype) @ z + offset, x, V, far, batch=5)
    expected = s[:, None] * torch.tensor(far, dtype=torch.float64)
    # Relative to f(x), because the difference has the rounding of f(x).
    atol = 30 * torch.finfo(dtype).eps * float(r.size + 1) * 10
    torch.testing.assert_close(r.change[0], expected, rtol=1e-5, atol=atol)
    torch.testing.assert_close(r.linear[0], expected, rtol=1e-5, atol=atol)
    torch.testing.assert_close(r.relative[0], r.change[0] / r.size[0])
    assert (r.nonlinear <= 4 * r.floor[:, None]).all()
    assert linearity_range(r, 0.01).isinf().all()
    assert r.depths == ("output",)
    assert r.outside is None
    torch.testing.assert_close(r.moved, r.distances.expand(4, 4))


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_directions_of_a_linear_map_change_nothing(dtype):
    A, V = matrix(20, 30, [9.0, 5.0, 3.0])
    x = normal(30, dtype=dtype)
    D = normal_directions(V.to(dtype), 6)
    r = perturbation_response(lambda z: A.to(dtype) @ z, x, D, [0.1, 10.0, 1000.0])
    assert (r.relative[0] <= rounding(dtype) * torch.tensor([1.0, 10.0, 1000.0])).all()
    assert (r.change <= 20 * r.floor[:, None]).all()
    tangent = perturbation_response(lambda z: A.to(dtype) @ z, x, V, [0.1])
    expected = 0.1 * torch.tensor([[[9.0], [5.0], [3.0]]], dtype=torch.float64)
    torch.testing.assert_close(tangent.change, expected, rtol=rounding(dtype) * 100, atol=0)


@QUICK
@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 7), st.integers(1, 9))
def test_batches_and_norms_of_directions_change_nothing(K, T, batch, seed):
    net = network(5, 8, 4, seed=seed)
    x, D = normal(5, seed=seed), normal(5, K, seed=seed + 1)
    far = torch.arange(1, T + 1) / 3
    one = perturbation_response(net, x, D, far, batch=1)
    many = perturbation_response(net, x, D * 10.0 ** torch.arange(K), far.numpy(), batch=batch)
    for name in ("change", "linear", "nonlinear", "moved", "size"):
        torch.testing.assert_close(getattr(many, name), getattr(one, name), msg=name)
    assert torch.equal(many.flipped, one.flipped)
    for i in range(K):
        alone = perturbation_response(net, x, D[:, i], far)
        torch.testing.assert_close(alone.change[:, 0], one.change[:, i])


def test_a_given_jacobian_is_used():
    net = network(6, 9, 4)
    x, D = normal(6), random_space(6, 3)
    own = perturbation_response(net, x, D, [0.1, 0.5])
    for J in (JacobianOperator(net, x), torch.func.jacrev(net)(x)):
        found = perturbation_response(net, x, D, [0.1, 0.5], jacobian=J)
        torch.testing.assert_close(found.linear, own.linear)
        torch.testing.assert_close(found.nonlinear, own.nonlinear)
    none = perturbation_response(net, x, D, [0.1], jacobian=torch.zeros(4, 6).double())
    assert (none.linear == 0).all()
    torch.testing.assert_close(none.nonlinear, none.change)
    assert none.deviation.isinf().all()
    assert (linearity_range(none) == 0).all()


def test_depths_are_measured_at_once():
    net = network(12, 10, 8, 5)
    x, D = normal(1, 12), random_space(12, 4)
    names = ["1", "3", "4"]
    maps = {name: layer_map(net, x, name)[0] for name in names}
    far = [0.2, 1.0]
    r = perturbation_response(lambda z: {n: f(z) for n, f in maps.items()}, x, D, far, batch=3)
    assert r.depths == ("1", "3", "4")
    assert r.change.shape == (3, 4, 2)
    for d, name in enumerate(names):
        one = perturbation_response(maps[name], x, D, far)
        for field in ("size", "change", "linear", "nonlinear"):
            torch.testing.assert_close(getattr(r, field)[d], getattr(one, field)[0])
    together = perturbation_response(layer_maps(net, x, names), x, D, far)
    assert together.depths == ("0", "1", "2")
    torch.testing.assert_close(together.change, r.change)
    jacobians = {name: JacobianOperator(f, x) for name, f in maps.items()}
    given_ones = perturbation_response(
        lambda z: {n: f(z) for n, f in maps.items()}, x, D, far, jacobian=jacobians
    )
    torch.testing.assert_close(given_ones.linear, r.linear)


def test_a_relu_is_linear_up_to_its_kink():
    x = torch.tensor([1.0, 5.0], dtype=torch.float64)
    down = torch.tensor([-1.0, 0.0])
    far = torch.tensor([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0], dtype=torch.float64)
    r = perturbation_response(torch.relu, x, down, far)
    expected = (far - 1).clamp_min(0) / far
    torch.testing.assert_close(r.deviation[0, 0], expected)
    # Between 1, where the deviation is 0, and 1.25, where it is 0.2.
    assert float(linearity_range(r, 0.1)) == pytest.approx(1.125)
    assert linearity_range(r, 0.6).isinf().all()
    up = perturbation_response(torch.relu, x, -down, far)
    assert linearity_range(up).isinf().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_relu_net_leaves_linearity(dtype):
    net = network(20, 60, 60, 10, dtype=dtype)
    x = normal(20, dtype=dtype)
    far = torch.logspace(-3, 1.5, 30)
    r = perturbation_response(net, x, random_directions(20, 8), far)
    found = linearity_range(r)
    assert found.isfinite().all()
    assert (found > 1e-3).all()
    assert (found <= 30).all()
    assert (r.deviation[..., -1] > 0.1).all()
    looser = linearity_range(r, 0.3)
    assert (looser >= found).all()


def test_a_smooth_map_has_the_range_of_its_curvature():
    # |x + tv|² - |x|² - 2t x'v = t² over 2t x'v: a deviation of t / 2.
    r = perturbation_response(
        lambda z: (z**2).sum()[None], torch.ones(1).double(), torch.ones(1), [0.01, 0.1, 1.0]
    )
    assert r.deviation.flatten().tolist() == pytest.approx([0.005, 0.05, 0.5])
    assert float(linearity_range(r, 0.25)) == pytest.approx(0.5)
    assert float(linearity_range(r, 0.001)) == 0
    assert float(linearity_range(r, 0.6)) == math.inf
    with pytest.raises(ArgumentError, match="tolerance"):
        linearity_range(r, 0)


def test_rounding_is_not_taken_for_nonlinearity():
    """A float32 net, in steps so short that the difference of its values is noise."""
    far = torch.logspace(-8, -4, 9)
    x, D = normal(30), random_directions(30, 5)
    single = perturbation_response(network(30, 80, 80, 10, dtype=torch.float32), x.float(), D, far)
    double = perturbation_response(network(30, 80, 80, 10), x, D, far)
    assert (single.deviation[..., 0] > 0.3).all()
    assert (double.deviation[..., 0] < 1e-5).all()
    assert linearity_range(single).isinf().all()
    assert linearity_range(double).isinf().all()
    noise = single.nonlinear[0, :, 0] / single.floor[0, 0]
    assert 0.02 < float(noise.median()) < 4
    assert (single.floor / single.size[:, None] < 1e-5).all()


def test_flips_are_counted_by_hand():
    """The largest logit leads by 1 and by 2. The class changes when it falls, or when another one
    rises."""
    x = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
    D = torch.eye(3, dtype=torch.float64)
    D[0, 0] = -1
    r = perturbation_response(lambda z: z, x, D, [0.5, 0.9, 1.1, 1.9, 2.1])
    assert r.flipped.tolist() == [
        [False, False, True, True, True],
        [False, False, True, True, True],
        [False, False, False, False, True],
    ]
    assert r.flip_distance.tolist() == [1.1, 1.1, 2.1]
    opposite = perturbation_response(lambda z: z, x, -D[:, 1], [1.0, 2.0])
    assert opposite.flip_distance.tolist() == [math.inf]
    # Only the last output has classes.
    both = perturbation_response(lambda z: {"flat": -z, "logits": z}, x, D, [0.5, 1.1])
    assert both.flipped.tolist() == [[False, True], [False, True], [False, False]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_entries_out_of_bounds_are_counted_and_clipped(dtype):
    x = torch.tensor([[0.0, 0.5], [0.75, 1.0]], dtype=dtype)
    D = torch.eye(4)[:, [0, 1, 3]]
    far = [0.25, 0.5, 1.0]
    free = perturbation_response(lambda z: 2 * z, x, D, far, lower=0, upper=1)
    expected = torch.tensor([[0, 0, 0], [0, 0, 0.25], [0.25, 0.25, 0.25]], dtype=torch.float64)
    assert torch.equal(free.outside, expected)
    assert free.moved[2].tolist() == far
    held = perturbation_response(lambda z: 2 * z, x, D, far, lower=0, upper=1, clip=True)
    assert torch.equal(held.outside, expected)
    moved = torch.tensor([[0.25, 0.5, 1], [0.25, 0.5, 0.5], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(held.moved, moved)
    torch.testing.assert_close(held.change[0], 2 * moved)
    # J δ uses the displacement after clipping, so a linear map stays linear.
    torch.testing.assert_close(held.linear[0], 2 * moved)
    assert linearity_range(held).isinf().all()
    assert held.deviation[0, 2].isnan().all()


def test_bounds_may_differ_between_channels_and_miss_by_rounding():
    mean, std = torch.tensor([0.4, 0.5])[:, None, None], torch.tensor([0.2, 0.3])[:, None, None]
    photo = (torch.arange(32) % 4 / 3).reshape(2, 4, 4)
    x, lower, upper = ((z - mean) / std for z in (photo, torch.zeros(1), torch.ones(1)))
    x = x * (1 + 2 * torch.finfo(x.dtype).eps)
    steps = torch.zeros(2, 4, 4)
    steps[0] = 1
    r = perturbation_response(
        lambda z: z, x, steps.flatten(), [1e-3, 1e3], lower=lower, upper=upper, clip=True
    )
    assert r.outside.tolist() == [[1 / 8, 1 / 2]]
    assert float(r.moved[0, 1]) == pytest.approx(float((upper - x)[0].norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": True}, "needs lower or upper"),
        ({"lower": 1.0, "upper": 1.0}, "less than upper"),
        ({"lower": 0.5}, "x itself is out of bounds"),
        ({"upper": 0.5}, "x itself is out of bounds"),
        ({"upper": torch.ones(4)}, "does not broadcast"),
        ({"upper": math.nan}, "less than upper"),
        ({"batch": 0}, "batch=0"),
        ({"jacobian": torch.ones(3, 2)}, r"\(3, 2\) torch.float32; .* \(3, 3\)"),
        ({"jacobian": torch.eye(3).double()}, r"torch.float64; .* torch.float32"),
        ({"jacobian": {"logits": torch.eye(3)}}, "match them"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    x = torch.tensor([0.0, 1.0, 0.0])
    with pytest.raises(ArgumentError, match=message):
        perturbation_response(lambda z: z, x, torch.eye(3), [1.0], **options)


@pytest.mark.parametrize(
    ("directions", "distances", "message"),
    [
        (torch.eye(3)[:2], [1.0], r"\(3,\) or several as columns"),
        (torch.ones(3, 1, 1), [1.0], r"\(3,\) or several as columns"),
        (torch.eye(3) * torch.tensor([1.0, 0.0, 1.0]), [1.0], "direction 1 is 0"),
        (torch.full((3,), math.inf), [1.0], "finite"),
        (torch.eye(3), [0.0, 1.0], "positive"),
        (torch.eye(3), [-1.0], "positive"),
        (torch.eye(3), [1.0, 1.0], "ascend"),
        (torch.eye(3), [[1.0]], "positive numbers"),
        (torch.eye(3), 1.0, "positive numbers"),
        (torch.eye(3), [], "empty"),
        (torch.eye(3), [1.0, math.nan], "finite"),
    ],
)
def test_directions_and_distances_that_are_none_are_refused(directions, distances, message):
    with pytest.raises(ArgumentError, match=message):
        perturbation_response(lambda z: z, torch.ones(3), directions, distances)


def test_points_and_functions_that_are_none_are_refused():
    D = torch.eye(3)
    for x in (torch.ones(3, dtype=torch.int64), torch.ones(0), [1.0, 2.0, 3.0]):
        with pytest.raises(ArgumentError, match="x must be"):
            perturbation_response(lambda z: z, x, D, [1.0])
    with pytest.raises(ArgumentError, match="finite"):
        perturbation_response(lambda z: z, torch.tensor([1.0, math.nan, 0.0]), D, [1.0])
    x = torch.ones(3)
    for value in ({}, (), 3.0, None):
        with pytest.raises(ArgumentError, match="fn returned"):
            perturbation_response(lambda z, value=value: value, x, D, [1.0])
    with pytest.raises(ArgumentError, match="two different values"):
        perturbation_response(lambda z: z * torch.rand(3), x, D, [1.0])
    with pytest.raises(ModelError, match="training mode"):
        perturbation_response(nn.Sequential(nn.Linear(3, 2), nn.Dropout()), x, D, [1.0])
    with pytest.raises(NonFiniteError, match="at the point"):
        perturbation_response(lambda z: (z - 2).log(), x, D, [1.0])
    with pytest.raises(NonFiniteError, match="at distance 2 along direction 1"):
        perturbation_response(
            lambda z: z.log(), x, torch.tensor([[1.0, -1.0], [0, 0], [0, 0]]), [0.5, 2.0]
        )


def test_a_function_that_branches_on_its_values_needs_batches_of_one():
    def bent(z):
        return z if z[0] > 0 else 2 * z

    x, D = torch.ones(3).double(), torch.eye(3)
    with pytest.raises(ArgumentError, match="batch=1"):
        perturbation_response(bent, x, D, [0.5, 2.0])
    r = perturbation_response(bent, x, -D, [0.5, 2.0], batch=1)
    torch.testing.assert_close(r.linear[0], r.distances.expand(3, 2))
    # From (1, 1, 1) to (−1, 1, 1), doubled: off by (−1, 1, 1) from where J = I leads.
    assert r.deviation[0, 0].tolist() == pytest.approx([0, math.sqrt(3) / 2])


def test_weights_that_can_be_trained_leave_no_graph_and_x_stays():
    x = normal(5).requires_grad_()
    before = x.detach().clone()
    net = nn.Sequential(nn.ReLU(inplace=True), network(5, 6, 3)).eval()
    r = perturbation_response(net, x, torch.eye(5), [1])
    for value in (r.size, r.change, r.linear, r.nonlinear, r.floor, r.moved):
        assert not value.requires_grad
    assert torch.equal(x, before)
    assert x.grad is None
    assert all(p.grad is None for p in net.parameters())


class Cube(torch.autograd.Function):
    """Without forward mode or a rule for vmap, as custom kernels often are."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z**3

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return 3 * z**2 * grad


def test_a_function_without_forward_mode_is_differentiated_in_reverse():
    x, D, far = normal(4), random_space(4, 3), [0.1, 1.0]
    r = perturbation_response(Cube.apply, x, D, far, batch=1)
    plain = perturbation_response(lambda z: z**3, x, D, far)
    torch.testing.assert_close(r.linear, plain.linear)
    torch.testing.assert_close(r.nonlinear, plain.nonlinear)


def test_the_floor_is_that_of_a_cast_inside():
    W = normal(5, 5, seed=1, dtype=torch.float32)
    x = normal(5, seed=2, dtype=torch.float64)

    def cast(z):
        return (W @ z.float()).tanh().double()

    def plain(z):
        return (W.double() @ z).tanh()

    with_cast, without = (
        perturbation_response(fn, x, torch.eye(5)[0], [1e-7, 1e-2]) for fn in (cast, plain)
    )
    off = (with_cast.change[0] - without.change[0]).abs()
    assert (off <= 4 * with_cast.floor[0]).all()
    assert (without.floor < 1e-13).all()
