"""JVPs of softmax are taken from its value: one matrix for both products of attention."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace
from jvpsvd.operators.environment.attention import differentiable_attention


def last(x):
    return x.softmax(-1)


def first(x):
    return x.softmax(0) ** 2


def safe(x):
    return torch.ops.aten._safe_softmax(x, -1)


def masked(x):
    mask = torch.tensor([[True, False, True, False, True], [False] * 5, [True] * 5])
    return torch.ops.aten._safe_softmax(x.masked_fill(~mask, -torch.inf), -1)


def in_another_dtype(x):
    return torch.softmax(x, -1, dtype=torch.float64).to(x.dtype)


def attention(x):
    y = torch.stack([x, x.sin(), x.cos()])[None]
    return scaled_dot_product_attention(y, y.flip(-1), y.flip(1), is_causal=True)


FUNCTIONS = [last, first, safe, masked, in_another_dtype, attention]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_products_are_those_of_softmax(fn, dtype, dense):
    x = torch.randn(3, 5, dtype=dtype, generator=torch.Generator().manual_seed(0))
    J = JacobianOperator(fn, x, derivatives="trace")
    with differentiable_attention():
        expected = dense(fn, x)
    torch.testing.assert_close(J @ torch.eye(15, dtype=dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(J.shape[0], dtype=dtype), expected.T)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_no_exponentials_are_kept(fn):
    trace = Trace(fn, torch.randn(3, 5))
    assert not trace.recording.primal.graph.find_nodes(
        op="call_function", target=torch.ops.aten.exp.default
    )


def test_a_softmax_by_hand_stays(dense):
    def fn(x):
        e = torch.exp(x - x.amax(-1, True))
        return e / e.sum(-1, True)

    x = torch.randn(3, 5, dtype=torch.float64)
    J = JacobianOperator(fn, x, derivatives="trace")
    torch.testing.assert_close(J @ torch.eye(15, dtype=x.dtype), dense(fn, x))


def test_attention_keeps_one_matrix_of_all_pairs():
    tokens, heads, width = 40, 2, 8
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(width, heads, 8, dropout=0.0, batch_first=True).eval()
    x = torch.randn(1, tokens, width)
    trace = Trace(net, x)
    recording = trace.recording
    _, kept = recording.primal(x, *recording.constants.values().tensors)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    pairs = heads * tokens**2 * 4
    assert sum(size >= pairs for size in storages.values()) == 1
