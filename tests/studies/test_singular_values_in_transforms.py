"""Singular values under transforms of torch: right gradients, or one line that says what works."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from jvpsvd import JacobianOperator, singular_values, svds
from jvpsvd.errors import ArgumentError, DerivativeError, TraceError

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 4)).double()
PARAMETERS = {name: value.detach() for name, value in NET.named_parameters()}
X = torch.randn(3, 6, dtype=torch.float64)
x, ONES = X[0], torch.ones(6, dtype=torch.float64)


def called(parameters):
    return lambda z: torch.func.functional_call(NET, parameters, (z,))


def largest(z):
    return singular_values(NET, z, tol=1e-12)[0]


def largest_of_all(z):
    return torch.linalg.svdvals(torch.func.jacrev(NET)(z))[0]


def dual(value):
    return forward_ad.make_dual(value.detach(), torch.ones_like(value))


DUAL = {
    "the point": lambda: singular_values(NET, dual(x)),
    "a point that requires grad": lambda: singular_values(NET, dual(x).requires_grad_()),
    "the points of a batch": lambda: singular_values(NET, dual(X), batch_dims=1),
    "weights": lambda: singular_values(called({n: dual(p) for n, p in PARAMETERS.items()}), x),
    "weights, in a batch": lambda: singular_values(
        called({n: dual(p) for n, p in PARAMETERS.items()}), X, batch_dims=1
    ),
    "a part of a dict": lambda: singular_values(
        lambda z: {"a": z, "b": forward_ad.make_dual(ONES, ONES) * z}, x
    ),
}


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("name", DUAL)
def test_a_tangent_is_never_dropped(name, gradients):
    with (
        forward_ad.dual_level(),
        torch.set_grad_enabled(gradients),
        pytest.raises(DerivativeError, match="has no forward mode") as raised,
    ):
        DUAL[name]()
    assert "\n" not in str(raised.value)


def test_an_open_level_of_forward_mode_is_no_harm():
    with forward_ad.dual_level():
        found = singular_values(NET, x)
    torch.testing.assert_close(found, singular_values(NET, x))


REFUSED = {
    "jvp": lambda: torch.func.jvp(largest, (x,), (ONES,)),
    "jacfwd": lambda: torch.func.jacfwd(largest)(x),
    "hessian": lambda: torch.func.hessian(largest)(x),
    "linearize": lambda: torch.func.linearize(largest, x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forward_mode_of_torch_func_says_what_works(name):
    with pytest.raises(
        DerivativeError,
        match=r"^singular_values has no forward mode.*backward\(\) or torch\.autograd\.grad$",
    ):
        REFUSED[name]()


def test_vmap_says_that_points_are_a_batch():
    with pytest.raises(ArgumentError, match="batch_dims=1"):
        torch.vmap(largest)(X)
    with pytest.raises(ArgumentError, match="batch_dims=1"):
        torch.vmap(torch.func.grad(largest))(X)


def test_gradients_by_torch_func_are_those_of_the_dense_decomposition():
    torch.testing.assert_close(torch.func.grad(largest)(x), torch.func.grad(largest_of_all)(x))
    torch.testing.assert_close(torch.func.jacrev(largest)(x), torch.func.grad(largest_of_all)(x))


def test_gradients_by_weights_given_through_functional_call():
    def ours(parameters):
        return singular_values(called(parameters), x, k=2, tol=1e-12).sum()

    def dense(parameters):
        return torch.linalg.svdvals(torch.func.jacrev(called(parameters))(x))[:2].sum()

    found, truth = torch.func.grad(ours)(PARAMETERS), torch.func.grad(dense)(PARAMETERS)
    for name in PARAMETERS:
        torch.testing.assert_close(found[name], truth[name])


class Tripled(torch.autograd.Function):
    """A custom function of the older style, which torch.func cannot take."""

    @staticmethod
    def forward(ctx, x):
        return 3 * x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


@pytest.mark.parametrize("by", ["x", "weights"])
def test_what_torch_func_cannot_take_is_one_line(by):
    calls = {
        "x": lambda: torch.func.grad(lambda z: singular_values(lambda q: Tripled.apply(q), z)[0])(
            x
        ),
        "weights": lambda: torch.func.grad(
            lambda p: singular_values(lambda q: called(p)(Tripled.apply(q)), x)[0]
        )(PARAMETERS),
    }
    with pytest.raises(
        DerivativeError, match=r"^singular_values cannot take fn under torch\.func"
    ) as raised:
        calls[by]()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_the_jacobian_of_singular_values_is_taken_by_reverse_passes(batch_dims):
    points = X if batch_dims else x
    J = JacobianOperator(
        lambda z: singular_values(NET, z, 2, tol=1e-12), points, batch_dims=batch_dims
    )
    found = svds(J, "all").s
    each = X if batch_dims else x[None]
    truth = torch.stack(
        [
            torch.linalg.svdvals(
                torch.func.jacrev(lambda z: torch.linalg.svdvals(torch.func.jacrev(NET)(z))[:2])(
                    one
                )
            )
            for one in each
        ]
    )
    torch.testing.assert_close(found.reshape(truth.shape), truth, rtol=1e-6, atol=1e-8)


def test_a_recording_of_singular_values_is_refused_as_such():
    with pytest.raises(TraceError, match="singular_values decides by values"):
        JacobianOperator(lambda z: singular_values(NET, z), x, derivatives="trace")
