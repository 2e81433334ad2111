"""Arguments that no text of a graph can stand for are named."""

import pytest
import torch
from torch.ao.nn.quantized.dynamic import Linear

from jvpsvd import JacobianOperator
from jvpsvd.errors import TraceError


def draw():
    return torch.rand(6, generator=torch.Generator().manual_seed(0))


def test_a_generator_is_named_with_the_operation_that_draws_from_it():
    with pytest.raises(TraceError) as caught:
        JacobianOperator(lambda x: x**2 * draw(), torch.ones(6), derivatives="trace")
    assert str(caught.value) == (
        "cannot record the function: aten::rand draws from a torch.Generator, which a recording "
        "cannot hold; to have it recorded, draw the numbers once, outside of it; use "
        'derivatives="transforms"'
    )


@pytest.mark.parametrize("derivatives", ["auto", "transforms"])
def test_a_function_with_a_generator_is_differentiated_all_the_same(derivatives):
    x = torch.ones(6)
    J = JacobianOperator(lambda x: x**2 * draw(), x, derivatives=derivatives)
    torch.testing.assert_close(J @ torch.eye(6), torch.diag(2 * draw()))


def test_a_generator_that_does_not_bear_on_the_value_is_no_obstacle():
    J = JacobianOperator(lambda x: (x**2, draw())[0], torch.ones(6), derivatives="trace")
    torch.testing.assert_close(J.to_dense(), 2 * torch.eye(6))


@pytest.mark.filterwarnings("ignore::UserWarning:torch")  # a deprecated call in torch's own layer
@pytest.mark.skipif(
    torch.backends.quantized.engine in ("none", None), reason="torch has no quantized kernels here"
)
def test_packed_weights_are_named_with_the_operation_that_takes_them():
    layer = Linear(6, 6).eval()
    with pytest.raises(
        TraceError, match="quantized::linear_dynamic takes packed weights"
    ) as caught:
        JacobianOperator(lambda x: x + layer(x), torch.ones(1, 6), derivatives="trace")
    assert "SyntaxError" not in str(caught.value)
