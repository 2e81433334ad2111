"""`torch.set_default_device` changes where a user's tensors are made, not where we count."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, MatrixOperator, StreamedStack, layer_map, restrict, stack, svds

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
POINTS, MATRIX = torch.randn(4, 3), torch.randn(40, 30)
COLUMNS = torch.tensor([True, False, True])


def cut():
    f, z = layer_map(NET, POINTS[0], to="2", since="0")
    return JacobianOperator(f, z)


OPERATORS = {
    "recorded": lambda: JacobianOperator(NET, POINTS[0], derivatives="trace"),
    "transformed": lambda: JacobianOperator(NET, POINTS[0], derivatives="transforms"),
    "batch": lambda: JacobianOperator(NET, POINTS, batch_dims=1),
    "selection": lambda: JacobianOperator(NET, POINTS, batch_dims=1).select([2, 0]),
    "parameters": lambda: JacobianOperator.wrt_parameters(NET, POINTS),
    "stream": lambda: StreamedStack.over(NET, POINTS),
    "cut": cut,
    "matrix": lambda: MatrixOperator(MATRIX),
    "stack": lambda: stack([MatrixOperator(MATRIX), MatrixOperator(MATRIX)]),
    "restriction": lambda: restrict(MatrixOperator(MATRIX[:, :3]), rows=[1, 5, 7], columns=COLUMNS),
}


@pytest.fixture
def _elsewhere():
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("method", ["golub-kahan", "randomized", "exact"])
@pytest.mark.parametrize("name", OPERATORS)
def test_values_are_those_without_it(name, method, request):
    A = OPERATORS[name]()
    if A.batch and method == "randomized":
        pytest.skip("takes no batch")
    expected = svds(A, 2, method=method).s
    request.getfixturevalue("_elsewhere")
    result = svds(OPERATORS[name](), 2, method=method)
    torch.testing.assert_close(result.s, expected)
    assert result.converged.all()
    assert str(result)


def test_a_default_that_was_taken_back():
    """torch 2.6 cannot say the device then."""
    torch.set_default_device("cpu")
    torch.set_default_device(None)
    result = svds(JacobianOperator(NET, POINTS[0]), 2)
    assert result.converged.all()


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_function_makes_its_tensors_where_the_user_has_set(derivatives, request):
    request.getfixturevalue("_elsewhere")
    seen = []

    def fn(x):
        seen.append(torch.zeros(1).device.type)
        return x.tanh()

    svds(JacobianOperator(fn, POINTS[0], derivatives=derivatives), 2)
    assert set(seen) == {"meta"}
    assert torch.get_default_device() == torch.device("meta")
