"""A line in the log where a Jacobian is block-diagonal, and batch_dims should be known."""

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator
from jvpsvd.operators import by_transforms
from jvpsvd.operators.derivatives import block_diagonal
from jvpsvd.operators.derivatives.block_diagonal import is_block_diagonal

DTYPE = torch.float64


@pytest.fixture(autouse=True)
def untold():
    block_diagonal._tell.cache_clear()


def told(caplog):
    return [r.message for r in caplog.records if "block-diagonal" in r.message]


@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_a_batch_without_batch_dims_is_told_once(derivatives, caplog):
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).to(DTYPE)
    for seed in range(3):
        torch.manual_seed(seed)
        J = JacobianOperator(net, torch.randn(5, 4, dtype=DTYPE), derivatives=derivatives)
        J.at(torch.randn(5, 4, dtype=DTYPE))
    (message,) = told(caplog)
    assert "batch_dims=1" in message
    assert "5 operators 3 x 4" in message
    assert "\n" not in message


def mixing(i, j):
    """Rows 0 … 6 for themselves, but for one that another one acts on."""

    def fn(x):
        y = x**2 + x
        return torch.cat([y[:i], y[i : i + 1] + 1e-30 * x[j].sin(), y[i + 1 :]])

    return fn


@pytest.mark.parametrize(
    ("fn", "shape"),
    [
        *[(mixing(i, j), (7, 3)) for i in range(7) for j in range(7) if i != j],
        (lambda x: x.flip(0), (4, 3)),
        (lambda x: x.roll(1, 0), (4, 3)),
        (lambda x: x.softmax(0), (4, 3)),
        (lambda x: x - x.mean(), (4, 3)),
        (lambda x: x[:1].expand(4, 3) * 2, (4, 3)),
        (lambda x: torch.cat([x[:3], 0 * x[3:]]), (4, 3)),
        (lambda x: x.sum(1)[:3], (4, 3)),
        (lambda x: x**2, (1, 3)),
        (lambda x: x**2, (3,)),
        (lambda x: 0 * x, (4, 3)),
        (nn.MultiheadAttention(4, 2).to(DTYPE).eval(), (4, 4)),
    ],
)
def test_rows_that_act_on_each_other_are_not_taken_for_blocks(fn, shape, caplog):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=DTYPE)
    if isinstance(fn, nn.MultiheadAttention):
        attention = fn

        def fn(x):
            return attention(x, x, x)[0]

    assert not is_block_diagonal(by_transforms(fn, x, check=False))


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 8, 9])
@pytest.mark.parametrize(
    "fn", [torch.sin, lambda x: x.softmax(-1), lambda x: x.sum(1), nn.LayerNorm(3).to(DTYPE)]
)
def test_independent_rows_are_blocks(fn, rows):
    x = torch.randn(rows, 3, dtype=DTYPE)
    assert is_block_diagonal(by_transforms(fn, x, check=False))


def test_nothing_is_said_of_batches_trees_and_unchecked_operators(caplog):
    X = torch.ones(4, 5, 3, dtype=DTYPE)
    JacobianOperator(lambda x: x.cumsum(0), X, batch_dims=1)
    JacobianOperator(lambda t: t[0] ** 2, (X[0],))
    JacobianOperator(torch.sin, X[0], check=False)
    assert not told(caplog)
