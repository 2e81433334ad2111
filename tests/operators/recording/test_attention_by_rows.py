"""Products through large attention matrices, some rows at a time, are those of autograd."""

import pytest
import torch
from support.thinned import thinned
from torch import nn
from torch.func import vmap
from torch.nn.functional import scaled_dot_product_attention

from jvpsvd import JacobianOperator
from jvpsvd.operators import Trace
from jvpsvd.operators.environment.attention import differentiable_attention
from jvpsvd.operators.recording.softmax_products import (
    Layout,
    multiply_through_softmax,
    multiply_wide,
)

TOKENS, WIDTH, HEADS = 11, 6, 2


@pytest.fixture(autouse=True)
def every_matrix_is_large(monkeypatch):
    monkeypatch.setattr("jvpsvd.operators.recording.passes.attention.PAIRS", 1)
    monkeypatch.setattr("jvpsvd.operators.recording.softmax_products.ENTRIES", 70)


class Attention(nn.Module):
    """Attention by hand, as language models write it, between linear layers."""

    def __init__(self, scale=None, masked=True, groups=1, dtype=None):
        super().__init__()
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * WIDTH // groups)
        self.scale, self.masked, self.groups, self.dtype = scale, masked, groups, dtype

    def forward(self, x):
        q = self.q(x).view(TOKENS, HEADS, -1).transpose(0, 1)
        k, v = (
            t.reshape(TOKENS, HEADS // self.groups, -1).transpose(0, 1)
            .repeat_interleave(self.groups, 0)
            for t in self.kv(x).chunk(2, -1)
        )  # fmt: skip
        if self.scale is None:
            y = scaled_dot_product_attention(q, k, v, is_causal=self.masked)
        else:
            scores = self.scale(q @ k.transpose(-1, -2))
            above = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
            if self.masked == "filled":
                scores = scores.masked_fill(above, -torch.inf)
            elif self.masked:
                scores = scores + torch.zeros(TOKENS, TOKENS, dtype=x.dtype).masked_fill(
                    above, -1e9
                )
            y = scores.softmax(-1, dtype=self.dtype).to(x.dtype) @ v
        return self.out(y.transpose(0, 1).reshape(x.shape))


class Masked(nn.Module):
    """Attention of two texts at once, with a mask in any form."""

    def __init__(self, scores, weights=lambda w: w):
        super().__init__()
        self.qkv, self.scores, self.weights = nn.Linear(WIDTH, 3 * WIDTH), scores, weights

    def forward(self, x):
        texts = torch.stack([x, x.flip(0)])
        q, k, v = (
            t.view(2, TOKENS, HEADS, -1).transpose(1, 2) for t in self.qkv(texts).chunk(3, -1)
        )
        return self.weights(self.scores(q @ k.transpose(-1, -2)).softmax(-1)) @ v


ABOVE = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
PADDING = torch.arange(TOKENS) > torch.tensor([[8], [5]])
OF_EACH_TEXT = ABOVE | PADDING[:, None, None]
# A row that is masked as a whole has equal weights, which depend on nothing.
WHOLE_ROWS = OF_EACH_TEXT | (torch.arange(TOKENS) == 3)[:, None]
MASKED = {
    "filled": lambda: Masked(lambda s: s.masked_fill(ABOVE, -torch.inf)),
    "padding filled": lambda: Masked(lambda s: s.masked_fill(PADDING[:, None, None], -torch.inf)),
    "filled for each text": lambda: Masked(lambda s: s.masked_fill(OF_EACH_TEXT, -torch.inf)),
    "whole rows": lambda: Masked(lambda s: s.masked_fill(WHOLE_ROWS, -1e30)),
    "where": lambda: Masked(lambda s: torch.where(ABOVE, -1e30, s)),
    "where not": lambda: Masked(lambda s: torch.where(~ABOVE, s / 2, torch.full_like(s, -1e30))),
    "filled twice": lambda: Masked(
        lambda s: s.masked_fill(ABOVE, -1.0).masked_fill(PADDING[:, None, None], -2.0)
    ),
    "weights masked": lambda: Masked(lambda s: s, lambda w: w.masked_fill(ABOVE, 0)),
    "weights multiplied": lambda: Masked(lambda s: s, lambda w: w * ~OF_EACH_TEXT),
    "capped and filled": lambda: Masked(lambda s: (2 * (s / 2).tanh()).masked_fill(ABOVE, -1e9)),
    "cubed": lambda: Masked(lambda s: s**3),
}


def encoder():
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 8, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.Unflatten(0, (1, TOKENS)), nn.TransformerEncoder(layer, 2))


def cross():
    memory = torch.randn(5, WIDTH, dtype=torch.float64)
    net = nn.MultiheadAttention(WIDTH, HEADS).double().eval()
    return lambda x: net(x, memory, memory, need_weights=False)[0]


def by_keys_alone():
    return lambda x: (torch.ones(TOKENS, WIDTH, dtype=x.dtype) @ x.T / 3).softmax(-1)[:, :3]


NETS = {
    "fused": lambda: Attention(),
    "fused, no mask": lambda: Attention(masked=False),
    "fused, grouped keys": lambda: Attention(groups=2),
    "by hand": lambda: Attention(lambda s: s * 0.4),
    "by hand, filled": lambda: Attention(lambda s: s * 0.4, masked="filled"),
    "by hand, divided": lambda: Attention(lambda s: s / 2.0),
    "by hand, a learned scale": lambda: Attention(lambda s: s * torch.full((1, 1), 0.3)),
    "by hand, another dtype": lambda: Attention(lambda s: s * 0.4, dtype=torch.float64),
    "by hand, capped": lambda: Attention(lambda s: 2 * torch.tanh(s / 2)),
    **MASKED,
    "encoder": encoder,
    "cross": cross,
    "no values": by_keys_alone,
}


@thinned(
    "name, dtype", list(NETS), [torch.float64, torch.float32],
    keep=2, always=lambda name, dtype: dtype == torch.float64 and name in ("cross", "no values"),
)  # fmt: skip
def test_products_are_those_of_autograd(name, dtype, dense):
    torch.manual_seed(0)
    net = NETS[name]()
    if isinstance(net, nn.Module):
        net = net.to(dtype).eval()
    elif dtype == torch.float32:
        pytest.skip("made for float64")
    x = torch.randn(TOKENS, WIDTH, dtype=dtype)
    with differentiable_attention():
        expected = dense(net, x)
    J = JacobianOperator(net, x, derivatives="trace")
    m, n = J.shape
    torch.testing.assert_close(J @ torch.eye(n, dtype=dtype), expected)
    torch.testing.assert_close(J.T @ torch.eye(m, dtype=dtype), expected.T)


@pytest.mark.filterwarnings("error")
def test_many_points_go_together(dense, caplog):
    torch.manual_seed(0)
    net = Attention().double().eval()
    X = torch.randn(3, TOKENS, WIDTH, dtype=torch.float64)
    J = JacobianOperator(net, X, batch_dims=1, derivatives="trace")
    with differentiable_attention():
        expected = torch.stack([dense(net, x) for x in X])
    unit_vectors = torch.eye(TOKENS * WIDTH, dtype=X.dtype)
    torch.testing.assert_close(J @ unit_vectors, expected)
    torch.testing.assert_close(J.T @ unit_vectors, expected.mT)
    assert "one by one" not in caplog.text


@pytest.mark.parametrize("name", MASKED)
def test_many_points_with_a_mask_go_together(name, dense):
    torch.manual_seed(0)
    net = MASKED[name]().double().eval()
    X = torch.randn(3, TOKENS, WIDTH, dtype=torch.float64)
    # As a function of one text: of a batch of one the network computes something else.
    J = JacobianOperator(lambda x: net(x), X, batch_dims=1, derivatives="trace")
    expected = torch.stack([dense(net, x) for x in X])
    unit_vectors = torch.eye(TOKENS * WIDTH, dtype=X.dtype)
    torch.testing.assert_close(J @ unit_vectors, expected)


def calls(graph, target):
    return graph.graph.find_nodes(op="call_function", target=target)


@pytest.mark.parametrize(
    "name",
    [
        *("fused", "fused, grouped keys", "by hand", "by hand, divided"),
        *("by hand, filled", "by hand, capped", "by hand, a learned scale", *MASKED),
    ],
)
def test_no_matrix_of_all_pairs_is_made_for_a_direction(name):
    torch.manual_seed(0)
    recording = Trace(NETS[name]().eval(), torch.randn(TOKENS, WIDTH)).recording
    for product in (recording.outputs[0].jvp, recording.outputs[0].vjp):
        assert len(calls(product.graph, multiply_through_softmax)) == 1
        assert len(calls(product.graph, multiply_wide)) == 1
        assert not calls(product.graph, torch.ops.aten._softmax_backward_data.default)
        assert product.widest() < (2 if name in MASKED else 1) * HEADS * TOKENS**2


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_columns_that_rows_do_not_attend_to_are_not_multiplied(rows, monkeypatch):
    """What stands behind them would make NaN of zero."""
    monkeypatch.setattr("jvpsvd.operators.recording.softmax_products.ENTRIES", rows * 2 * 5)
    S = torch.rand(2, 7, 5).tril()
    S[..., 3:] = 0
    A, B, C, D = torch.rand(2, 7, 4), torch.rand(2, 4, 5), torch.rand(2, 5, 3), torch.rand(2, 3, 7)
    layout = Layout(("left",), ("rows", "columns"))
    expected = multiply_through_softmax(layout, S, A, B, C, D)
    P = S * (A @ B - (S * (A @ B)).sum(-1, keepdim=True))
    torch.testing.assert_close(expected, [P @ C, D @ P])
    behind_B, behind_C = B.clone(), C.clone()
    behind_B[..., 3:] = behind_C[:, 3:] = torch.nan
    torch.testing.assert_close(
        multiply_through_softmax(layout, S, A, behind_B, behind_C, D), expected
    )


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_directions_may_be_none_or_several(rows, monkeypatch):
    monkeypatch.setattr("jvpsvd.operators.recording.softmax_products.ENTRIES", rows * 2 * 5)
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(2, 7, 5, dtype=torch.float64, generator=generator).softmax(-1)
    A, B, C, D = (
        torch.randn(3, 2, *shape, dtype=torch.float64, generator=generator)
        for shape in ((7, 4), (4, 5), (5, 3), (3, 7))
    )
    T = A @ B
    P = S * (T - (S * T).sum(-1, keepdim=True))
    layout = Layout(("left",), ("rows", "columns"))
    several = vmap(lambda a, b, c, d: multiply_through_softmax(layout, S, a, b, c, d))(A, B, C, D)
    for index in range(3):
        one = multiply_through_softmax(layout, S, A[index], B[index], C[index], D[index])
        for found, of_many, expected in zip(one, several, (P @ C, D @ P), strict=True):
            torch.testing.assert_close(found, expected[index])
            torch.testing.assert_close(of_many[index], expected[index])


@pytest.mark.parametrize("in_dims", [(None, 0), (0, None), (0, 0), (None, 2), (1, 3)])
def test_a_wide_matrix_is_multiplied_by_all_directions(in_dims):
    matrix, directions = torch.randn(2, 5, 4), torch.randn(2, 4, 3)
    batched = [
        t if dim is None else torch.stack([t, 2 * t, -t], dim)
        for t, dim in zip((matrix, directions), in_dims, strict=True)
    ]
    expected = vmap(torch.bmm, in_dims)(*batched)
    torch.testing.assert_close(vmap(multiply_wide, in_dims)(*batched), expected)
