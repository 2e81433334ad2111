"""Exactly at a kink torch's two modes may take different slopes: the message says so."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, prelu

from jvpsvd import JacobianOperator
from jvpsvd.errors import AdjointError

SLOPE = torch.tensor([0.3], dtype=torch.float64)
ONE_ZERO = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
TIES = torch.tensor([1.0, 2.0, 2.0, -1.0], dtype=torch.float64)

KINKS = {
    "prelu": (lambda x: prelu(x, SLOPE), ONE_ZERO),
    "fmax": (lambda x: torch.fmax(x, x.roll(1)), TIES),
    "clamp": (lambda x: x.clamp(min=x.roll(1)), TIES),
    "a black image": (
        nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.PReLU(), nn.Flatten()),
        torch.zeros(1, 2, 5, 5),
    ),
}


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
@pytest.mark.parametrize("name", KINKS)
def test_a_point_at_a_kink_is_told_so(name, derivatives):
    fn, x = KINKS[name]
    with pytest.raises(AdjointError, match=r"x lies at a kink of fn.*torch\.where$") as raised:
        JacobianOperator(fn, x, derivatives=derivatives)
    assert "\n" not in str(raised.value)
    assert "derivatives is wrong" not in str(raised.value)


@pytest.mark.parametrize("derivatives", ["auto", "trace", "transforms"])
def test_both_remedies_work(derivatives):
    J = JacobianOperator(lambda x: prelu(x, SLOPE), ONE_ZERO + 1e-3, derivatives=derivatives)
    assert J.to_dense().diagonal().tolist() == [1, 1, 1, 0.3]
    where = JacobianOperator(
        lambda x: torch.where(x > 0, x, SLOPE * x), ONE_ZERO, derivatives=derivatives
    )
    assert where.to_dense().diagonal().tolist() == [1, 0.3, 1, 0.3]


class Wrong(torch.autograd.Function):
    """2 x, with a backward of 3."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


WRONG = {
    "a wrong backward": (Wrong.apply, ONE_ZERO),
    "products that are rounding": (
        lambda x: cosine_similarity(x.view(2, 3), x.view(2, 3).roll(1, 1)),
        torch.ones(6, dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_elsewhere_too_is_no_kink(name):
    fn, x = WRONG[name]
    with pytest.raises(AdjointError, match="check the backward and jvp of custom functions"):
        JacobianOperator(fn, x, derivatives="transforms")
