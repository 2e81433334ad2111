"""Networks of torchvision, timm and transformers, by name, with what they take."""

from __future__ import annotations

import importlib
import inspect
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import nn

from jvpsvd.arguments import nearest_name, said
from jvpsvd.errors import ModelError
from jvpsvd.networks.inputs import Inputs
from jvpsvd.networks.photo_input import PhotoInput

TOKENS = 32
"""Length to which texts are cut or padded for a model of transformers."""

OWN_FUNCTION = (
    "load it in a function of your own that returns the network and its Inputs or PhotoInput "
    "(--model module:function)"
)
"""What to do where a network by name takes other arguments than photos or a text."""

_SECONDS = 3.0


def from_torchvision(name: str, *, pretrained: bool) -> tuple[nn.Module, PhotoInput]:
    """Return a network of torchvision, and its photos."""
    models = import_module("torchvision.models", f"torchvision:{name}")
    try:
        build = models.get_model_builder(name)
        options: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None}
        if not pretrained and "weights_backbone" in inspect.signature(build).parameters:
            options["weights_backbone"] = None  # or those would be downloaded
        module = models.get_model(name, **options).eval()
        recipe = models.get_model_weights(name).DEFAULT.transforms()
    except Exception as error:  # unknown names, and downloads that fail in any way
        remedy = _find_remedy(name, models.list_models, pretrained)
        raise ModelError(f"torchvision cannot give '{name}': {first_of(error)}{remedy}") from error
    if not hasattr(recipe, "resize_size") or not isinstance(recipe.resize_size[0], int):
        raise ModelError(
            f"torchvision:{name} takes something else than one photo, by the recipe of its "
            f"weights ({type(recipe).__name__}); {OWN_FUNCTION}"
        )
    resized = recipe.resize_size[0]
    crop = getattr(recipe, "crop_size", recipe.resize_size)  # segmentation takes whole photos
    return module, PhotoInput(
        size=crop[0],
        resize=resized,
        mean=tuple(recipe.mean),
        std=tuple(recipe.std),
        interpolation=recipe.interpolation.value,
    )


def _find_remedy(name: str, list_names: Callable[[], list[str]], pretrained: bool) -> str:
    """Return what to do where a network by name cannot be had."""
    known = list_names()
    if name.partition(".")[0] not in known:  # timm's names may end with those of weights
        meant = nearest_name(name, known)
        return f"; did you mean {meant}?" if meant else ""
    remedy = "; give weights that are here by --weights FILE, or draw them by --random-weights 0"
    return remedy if pretrained else ""


def from_timm(name: str, *, pretrained: bool) -> tuple[nn.Module, PhotoInput]:
    """Return a network of timm, and its photos."""
    timm = import_module("timm", f"timm:{name}")
    try:
        with _offline_if_unreachable():
            module = timm.create_model(name, pretrained=pretrained).eval()
        recipe = timm.data.resolve_model_data_config(module)
    except Exception as error:  # unknown names, and downloads that fail in any way
        remedy = _find_remedy(name, timm.list_models, pretrained)
        raise ModelError(f"timm cannot give '{name}': {first_of(error)}{remedy}") from error
    size = recipe["input_size"][-1]
    return module, PhotoInput(
        size=size,
        resize=round(size / recipe["crop_pct"]),
        mean=tuple(recipe["mean"]),
        std=tuple(recipe["std"]),
        interpolation=recipe["interpolation"],
    )


def from_hf(name: str, *, pretrained: bool) -> tuple[nn.Module, PhotoInput | Inputs]:
    """Return a network of transformers, from its hub or a folder, and the photos or texts it takes.

    Texts are cut or padded to `TOKENS` tokens.
    """
    where = _find_hf(name)
    transformers = import_module("transformers", f"hf:{name}")
    try:
        with _offline_if_unreachable():
            config = transformers.AutoConfig.from_pretrained(where)
            named = getattr(transformers, (config.architectures or [""])[0], None)
            if pretrained:
                module = (named or transformers.AutoModel).from_pretrained(where)
            else:
                module = named(config) if named else transformers.AutoModel.from_config(config)
            taken = _photos_or_texts(transformers, where, config)
    except ModelError:
        raise
    except Exception as error:  # absent names and files, and downloads that fail in any way
        raise ModelError(f"transformers cannot give '{name}': {first_of(error)}") from error
    return module.eval().float(), taken


def _find_hf(name: str) -> str:
    """Return the folder of a model of transformers, or its name on the hub.

    Raises:
        ModelError: If a folder is named that holds none.
    """
    path = Path(name).expanduser()
    local = name.startswith((".", "~", "/")) or name.count("/") > 1
    if local and not (path / "config.json").is_file():
        raise ModelError(f"no model at {path}: a folder of transformers holds config.json")
    return str(path) if path.is_dir() else name


def hf_on_meta(name: str) -> tuple[nn.Module, str]:
    """Return a language model of transformers without weights, and the name of its embedding."""
    where = _find_hf(name)
    transformers = import_module("transformers", f"hf:{name}")
    try:
        with _offline_if_unreachable():
            config = transformers.AutoConfig.from_pretrained(where)
        named = getattr(transformers, (config.architectures or [""])[0], None)
        with torch.device("meta"):
            module = named(config) if named else transformers.AutoModel.from_config(config)
        texts = hasattr(config, "vocab_size")
        embedding = module.get_input_embeddings() if texts else None
        names = [name for name, part in module.named_modules() if part is embedding]
    except Exception as error:  # absent names and files, and downloads that fail in any way
        raise ModelError(f"transformers cannot give '{name}': {first_of(error)}") from error
    if not names:
        raise ModelError(f"hf:{name} takes no tokens; leave --tokens out")
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"hf:{name} has an encoder and a decoder, and --tokens is of models that read one "
            "text; leave --tokens out"
        )
    return module.eval().float(), names[0]


def _photos_or_texts(transformers: Any, where: str, config: Any) -> PhotoInput | Inputs:
    if hasattr(config, "vocab_size"):
        tokenizer = _load(transformers.AutoTokenizer, "tokenizer", where)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        more = {"use_cache": False} if getattr(config, "use_cache", False) else {}

        def arguments(text: str) -> dict[str, Any]:
            found = tokenizer(
                text, return_tensors="pt", padding="max_length", truncation=True, max_length=TOKENS
            )
            return {**found, **more}

        return Inputs("txt", "an example of a text", arguments)
    processor = _load(transformers.AutoImageProcessor, "image processor", where)
    resized = _side(processor.size)
    crop = getattr(processor, "crop_size", None)
    return PhotoInput(
        size=_side(crop) if crop else resized,
        resize=resized,
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
    )


def _load(loader: Any, kind: str, where: str) -> Any:
    """Return what makes inputs of texts or photos.

    Raises:
        ModelError: If it cannot be loaded.
    """
    try:
        return loader.from_pretrained(where)
    except Exception as error:  # absent files, and downloads that fail in any way
        raise ModelError(
            f"transformers finds no {kind} of hf:{where} ({first_of(error)}); {OWN_FUNCTION}"
        ) from error


def _side(size: Any) -> int:
    return int(size.get("height") or size.get("shortest_edge"))


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Let the hub's client look into its cache only where the hub cannot be reached.

    It would try for a minute.
    """
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _can_be_reached(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _can_be_reached(url: str) -> bool:
    if urllib.request.getproxies():
        return True  # not known from here
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_SECONDS).close()
    except OSError:
        return False
    return True


def import_module(name: str, spec: str) -> Any:
    """Import a module that a specification needs.

    Raises:
        ModelError: If it cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # broken installs and scripts raise anything
        remedy = ""
        if isinstance(error, ModuleNotFoundError):
            remedy = f"; install {error.name}, or mend the name"
            if name.endswith(".py"):
                remedy = f"; leave .py out: {name.removesuffix('.py')}"
        raise ModelError(
            f"'{spec}' needs {name}, which does not import: {first_of(error)}{remedy}"
        ) from error


def first_of(error: BaseException) -> str:
    """Return an exception and the first line that it says."""
    text = (said(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {printable(text[:200])}"


def printable(text: str) -> str:
    """Return the text with control characters escaped, because messages quote text from files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
