"""The chunk of automatic differentiation is a matter of memory, never of numbers."""

import functools

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.errors import ArgumentError
from jvpsvd.operators import Trace


@functools.cache
def operator(chunk, derivatives="trace", dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).to(dtype)
    return JacobianOperator(
        net, torch.linspace(-1, 1, 6, dtype=dtype), chunk=chunk, derivatives=derivatives
    )


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [0, 1, 5, 7])
@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_every_chunk_gives_the_same_products(chunk, width, dtype, derivatives):
    torch.manual_seed(1)
    J, reference = operator(chunk, derivatives, dtype), operator(None, "transforms", dtype)
    V, U = torch.randn(6, width, dtype=dtype), torch.randn(4, width, dtype=dtype)
    assert J.chunk == chunk
    assert J.matmat(V).shape == (4, width)
    assert J.rmatmat(U).shape == (6, width)
    torch.testing.assert_close(J.matmat(V), reference.matmat(V))
    torch.testing.assert_close(J.rmatmat(U), reference.rmatmat(U))


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_automatic_differentiation_never_sees_more_than_a_chunk(chunk):
    widths = []
    (linear_map,) = Trace(lambda x: x**2, torch.ones(5)).at(torch.ones(5))

    def counted_jvp(block):
        widths.append(block.shape[0])
        return linear_map.jvp(block)

    counted = type(linear_map)(linear_map.point, linear_map.value, counted_jvp, linear_map.vjp)
    J = JacobianOperator.from_linear_map(counted, chunk=chunk)
    assert (J @ torch.ones(5, 7)).eq(2).all()
    assert sum(widths) == 7
    assert max(widths) == min(chunk, 7)


def test_the_default_chunk_shrinks_with_the_size_of_the_jacobian():
    small = JacobianOperator(lambda x: x, torch.ones(10))
    large = JacobianOperator(lambda x: x, torch.ones(100_000))
    assert small.chunk > large.chunk >= 1


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_below_one_is_refused(chunk):
    with pytest.raises(ArgumentError, match=f"chunk={chunk} must be a whole number at least 1"):
        operator(chunk)
