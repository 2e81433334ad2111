"""Jacobians that are 0 but for rounding: means of normalised values, sums of probabilities."""

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import layer_norm, normalize

from jvpsvd import JacobianOperator, svds
from jvpsvd.errors import AdjointError

WAYS = pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def linear(dtype):
    torch.manual_seed(0)
    return nn.Linear(5, 4).to(dtype)


FUNCTIONS = {
    "mean of normalised values": lambda first: lambda x: layer_norm(first(x), (4,)).mean(-1),
    "sum of probabilities": lambda first: lambda x: first(x).softmax(-1).sum(-1),
    "norm of a unit vector": lambda first: lambda x: normalize(first(x)).norm(dim=-1),
    "difference of equals": lambda first: lambda x: 3 * first(x) - 2 * first(x) - first(x),
}
EACH = pytest.mark.parametrize("make", FUNCTIONS.values(), ids=FUNCTIONS.keys())


@WAYS
@DTYPES
@EACH
@pytest.mark.filterwarnings("ignore:.*missed tol")
def test_values_are_about_zero(make, dtype, derivatives):
    first, eps = linear(dtype), torch.finfo(dtype).eps
    for seed in range(6):
        x = torch.randn(3, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))
        J = JacobianOperator(make(first), x, derivatives=derivatives)
        result = svds(J, "all", seed=0)
        assert result.s.max() < 16 * eps
        assert not result.converged.any() or result.s.max() == 0


def test_the_log_says_so(caplog):
    first = linear(torch.float64)
    with caplog.at_level(logging.WARNING):
        for seed in range(6):
            x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)).double()
            JacobianOperator(lambda x: (1e5 * layer_norm(first(x), (4,))).mean(-1), x)
    assert caplog.messages
    for line in caplog.messages:
        assert line.startswith("J is 0 to rounding at x, near which fn changes by rounding alone")
    assert len(set(caplog.messages)) == len(caplog.messages)


@WAYS
@pytest.mark.parametrize("size", [1e-30, 1e-100])
def test_a_small_jacobian_is_no_rounding(size, derivatives):
    """Products of 1e-100 are as exact as others, and so is what is wrong with them."""
    first = linear(torch.float64)

    def honest(x):
        return size * first(x).tanh()

    def wrong(x):
        y = first(x)
        if y.requires_grad:
            y.register_hook(lambda grad: 2 * grad)
        return size * y.tanh()

    x = torch.ones(1, 5, dtype=torch.float64)
    expected = torch.func.jacrev(honest)(x).detach().reshape(4, 5)
    J = JacobianOperator(honest, x, derivatives=derivatives)
    torch.testing.assert_close(J.to_dense() / size, expected / size)
    with pytest.raises(AdjointError):
        JacobianOperator(wrong, x, derivatives=derivatives)
