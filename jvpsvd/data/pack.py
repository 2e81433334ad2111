"""Folders of photos, one per class, written as WebDataset shards."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import webdataset

from jvpsvd.data.photos import PHOTO_SUFFIXES
from jvpsvd.errors import ArgumentError, ShardError


@dataclass(frozen=True)
class Photo:
    """A photo on disk, with what a shard will say about it."""

    file: Path
    key: str
    label: int
    record: dict[str, str]
    """Content of the sample's .json: file, class, and wnid where the class is named by one."""


def photos_by_class(folder: Path) -> list[Photo]:
    """Return the photos of `folder`/CLASS/*, labelled by the index of CLASS in sorted order.

    Raises:
        ShardError: If the folder is missing or holds no class folders with photos.
    """
    if not folder.is_dir():
        raise ShardError(f"no folder {folder}; give a folder that holds one folder per class")
    classes = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    found: list[Photo] = []
    keys: set[str] = set()
    for label, name in enumerate(classes):
        record = {"class": name}
        if re.fullmatch(r"n\d{8}", name):
            record["wnid"] = name
        for file in sorted((folder / name).iterdir()):
            if file.is_file() and file.suffix[1:].lower() in PHOTO_SUFFIXES:
                # A dot would end the key, a slash would look like a path.
                key = re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}_{file.stem}")
                while key in keys:
                    key += "_"
                keys.add(key)
                found.append(Photo(file, key, label, {**record, "file": file.name}))
    if not found:
        raise ShardError(
            f"no photos in {folder}/CLASS/; put them there as {', '.join(PHOTO_SUFFIXES[:3])}, …"
        )
    return found


def pack(
    photos: Iterable[Photo], out: Path, *, stem: str = "photos", per_shard: int = 1000
) -> list[Path]:
    """Write photos to shards `out`/`stem`-000000.tar, …; equal photos give equal bytes.

    Each shard is written aside and renamed, so that a shard that exists is whole.

    Raises:
        ArgumentError: If `per_shard` < 1.
        ShardError: If `out` already holds shards of this stem, or is a file.
    """
    if per_shard < 1:
        raise ArgumentError(f"{per_shard} photos per shard; write at least 1")
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is a file; choose a folder for the shards")
    out.mkdir(parents=True, exist_ok=True)
    if any(out.glob(f"{stem}-*.tar")):
        raise ShardError(f"{out} already holds shards {stem}-*.tar; choose another folder")
    return [
        write_shard(out / f"{stem}-{number:06d}.tar", part)
        for number, part in enumerate(_batches(photos, per_shard))
    ]


def _batches(photos: Iterable[Photo], size: int) -> Iterator[tuple[Photo, ...]]:
    rest = iter(photos)
    while batch := tuple(islice(rest, size)):
        yield batch


def write_shard(shard: Path, photos: Iterable[Photo]) -> Path:
    """Write photos to one shard, aside and then renamed; equal photos give equal bytes."""
    aside = shard.with_name(f"{shard.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            _write(file, photos)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(shard)
    finally:
        aside.unlink(missing_ok=True)
    return shard


def _write(file: BinaryIO, photos: Iterable[Photo]) -> None:
    with webdataset.TarWriter(
        file, encoder=False, user="", group="", mode=0o644, mtime=0, format="PAX_FORMAT"
    ) as writer:
        for photo in photos:
            writer.write(
                {
                    "__key__": photo.key,
                    photo.file.suffix[1:].lower(): photo.file.read_bytes(),
                    "cls": str(photo.label).encode(),
                    "json": json.dumps(photo.record, sort_keys=True).encode(),
                }
            )
