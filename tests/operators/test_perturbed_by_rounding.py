"""An operator at a point that is another by rounding: what it is of, and what it leaves alone."""

import pytest
import torch
from torch import nn

from jvpsvd.operators import JacobianOperator, MatrixOperator, StreamedStack, restrict, stack


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 5)).to(dtype).eval()


def nearby(x):
    """The entries of x, each between its neighbours among the numbers of its dtype."""
    eps = torch.finfo(x.dtype).eps
    return x.abs() * 1.5 * eps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("batch_dims", [0, 1])
def test_every_entry_of_the_point_moves_by_one_spacing(dtype, derivatives, batch_dims):
    x = torch.randn((3, 6) if batch_dims else (6,), dtype=dtype)
    J = JacobianOperator(network(dtype), x, batch_dims=batch_dims, derivatives=derivatives)
    moved = J.perturbed_by_rounding(seed=0)
    assert moved.shape == J.shape
    change = (moved.point - J.point).abs()
    assert (change > 0).all()
    assert (change <= nearby(x)).all()
    assert not torch.equal(J.perturbed_by_rounding(seed=1).point, moved.point)
    assert torch.equal(J.perturbed_by_rounding(seed=0).point, moved.point)


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_it_is_the_jacobian_at_the_moved_point(derivatives):
    net = network(torch.float64)
    J = JacobianOperator(net, torch.randn(6, dtype=torch.float64), derivatives=derivatives)
    moved = J.perturbed_by_rounding(seed=3)
    exact = torch.func.jacrev(net)(moved.point)
    torch.testing.assert_close(moved @ torch.eye(6, dtype=torch.float64), exact)
    torch.testing.assert_close(moved.T @ torch.eye(5, dtype=torch.float64), exact.T)


def test_a_kink_at_the_point_shows():
    J = JacobianOperator(lambda x: (x - 1).relu(), torch.ones(64))
    changed = [(J.perturbed_by_rounding(seed) @ torch.ones(64)).sum() for seed in range(3)]
    assert all(10 < count < 54 for count in changed)  # J has none of these ones: relu'(0) = 0
    assert (J @ torch.ones(64)).sum() == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_operators_made_of_others_are_perturbed_in_their_parts(seed):
    net = network(torch.float64)
    x = torch.randn(6, dtype=torch.float64)
    J = JacobianOperator(net, x)
    moved = J.perturbed_by_rounding(seed)
    D = MatrixOperator(torch.diag(torch.arange(1.0, 6.0, dtype=torch.float64)))
    eye6, eye5 = torch.eye(6, dtype=torch.float64), torch.eye(5, dtype=torch.float64)
    for made, expected in (
        (J.T, (moved.T @ eye5)),
        (2 * J, 2 * (moved @ eye6)),
        (D @ J, D @ (moved @ eye6)),
        (J + J, 2 * (moved @ eye6)),
        (J.T @ J, moved.T @ (moved @ eye6)),
        (restrict(J, rows=[1, 3]), (moved @ eye6)[[1, 3]]),
        (stack([J, D @ J]), torch.cat([moved @ eye6, D @ (moved @ eye6)])),
    ):
        eye = torch.eye(made.shape[1], dtype=torch.float64)
        torch.testing.assert_close(made.perturbed_by_rounding(seed) @ eye, expected)


def test_a_stream_is_perturbed_point_by_point():
    net = network(torch.float64)
    X = torch.randn(3, 6, dtype=torch.float64)
    stream = StreamedStack.over(net, X)
    moved = stream.perturbed_by_rounding(seed=0)
    eye = torch.eye(6, dtype=torch.float64)
    parts = [stream.operator(i).perturbed_by_rounding(seed=0) @ eye for i in range(3)]
    torch.testing.assert_close(moved @ eye, torch.cat(parts))
    gram = stream.mean_gram().perturbed_by_rounding(seed=0)
    torch.testing.assert_close(gram @ eye, sum(part.T @ part for part in parts) / 3)


def test_what_depends_on_no_point_has_none():
    A = MatrixOperator(torch.eye(3))
    for made in (A, A.T, 2 * A, A @ A, stack([A, A]), StreamedStack(lambda i: A, 2)):
        assert made.perturbed_by_rounding(seed=0) is None


def test_products_are_counted_on_the_operator_too():
    J = JacobianOperator(torch.sin, torch.ones(3))
    moved = J.perturbed_by_rounding(seed=0)
    moved @ torch.ones(3, 4)
    assert (J.products.forward, moved.products.forward) == (4, 4)


def test_the_random_state_and_the_point_stay_as_they_were():
    x = torch.randn(5)
    J, before = JacobianOperator(torch.sin, x), x.clone()
    state = torch.get_rng_state()
    J.perturbed_by_rounding(seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(J.point, before)
