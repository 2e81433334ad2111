"""A Jacobian that is given beside x: one of another point, function or depth is refused."""

import pytest
import torch
from support.geometry_problems import network, normal

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import perturbation_response, random_space
from jvpsvd.operators import Trace

FAR = [0.1, 0.5]


def net_and_point(dtype=torch.float64):
    return network(6, 9, 4, dtype=dtype), normal(6, dtype=dtype), random_space(6, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_jacobian_of_another_point_is_refused_and_at_takes_it_to_x(dtype, derivatives):
    net, x, D = net_and_point(dtype)
    other = x + 1e-3 * torch.ones_like(x)
    J = JacobianOperator(net, other, derivatives=derivatives)
    with pytest.raises(ArgumentError, match=r"another point, up to 0\.001 from x; .*J\.at\(x\)"):
        perturbation_response(net, x, D, FAR, jacobian=J)
    own = perturbation_response(net, x, D, FAR)
    found = perturbation_response(net, x, D, FAR, jacobian=J.at(x))
    torch.testing.assert_close(found.linear, own.linear)


def test_a_linear_map_knows_its_point_as_well():
    net, x, D = net_and_point()
    J = JacobianOperator.from_linear_map(Trace(net, x).at(2 * x)[0])
    with pytest.raises(ArgumentError, match="another point"):
        perturbation_response(net, x, D, FAR, jacobian=J)


def test_a_jacobian_of_another_function_or_of_other_weights_is_refused():
    net, x, D = net_and_point()
    J = JacobianOperator(network(6, 9, 4, seed=8), x)
    with pytest.raises(ArgumentError, match="another function, or of other weights: its value"):
        perturbation_response(net, x, D, FAR, jacobian=J)


def test_the_depth_with_the_wrong_jacobian_is_named():
    first, second = network(6, 9, 6), network(6, 5, 6, seed=3)
    x, D = normal(6), random_space(6, 3)
    outputs = {"first": first, "second": lambda z: second(first(z))}

    def fn(z):
        return {name: output(z) for name, output in outputs.items()}

    at_depths = {name: JacobianOperator(output, x) for name, output in outputs.items()}
    assert perturbation_response(fn, x, D, FAR, jacobian=at_depths).depths == ("first", "second")
    swapped = {"first": at_depths["second"], "second": at_depths["second"]}
    with pytest.raises(ArgumentError, match="jacobian of first is of another function"):
        perturbation_response(fn, x, D, FAR, jacobian=swapped)
    late = {**at_depths, "second": at_depths["second"].at(-x)}
    with pytest.raises(ArgumentError, match="jacobian of second was taken at another point"):
        perturbation_response(fn, x, D, FAR, jacobian=late)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_jacobian_where_the_function_is_zero_but_for_rounding_is_taken(dtype):
    """A root of f: its value there depends on the order of the sums alone."""
    A, x = normal(40, 40).to(dtype), normal(40, dtype=dtype)
    b = A @ x
    D = random_space(40, 3)
    J = JacobianOperator(lambda z: (A * z).flip(1).sum(1) - b, x)
    assert J.value.any()
    found = perturbation_response(lambda z: A @ z - b, x, D, FAR, jacobian=J)
    torch.testing.assert_close(
        found.linear[0, :, 1], 0.5 * (A.double() @ D).norm(dim=0), rtol=1e-4, atol=0
    )


def test_the_point_may_have_been_computed_a_second_time():
    net, x, D = net_and_point(torch.float32)
    again = x * (1 + torch.finfo(x.dtype).eps)
    r = perturbation_response(net, x, D, FAR, jacobian=JacobianOperator(net, again))
    own = perturbation_response(net, x, D, FAR)
    torch.testing.assert_close(r.linear, own.linear, rtol=1e-5, atol=1e-6)


def test_what_is_no_matrix_is_refused():
    net, x, D = net_and_point()
    with pytest.raises(
        ArgumentError, match="jacobian of output is a list; give an operator or a m"
    ):
        perturbation_response(net, x, D, FAR, jacobian=torch.func.jacrev(net)(x).tolist())
