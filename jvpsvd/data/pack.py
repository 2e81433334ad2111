"""Folders of photos, one per class, written as WebDataset shards."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from jvpsvd.arguments import as_path
from jvpsvd.data.locations import refuse_unfinished, unfinished
from jvpsvd.data.suffixes import PHOTO_SUFFIXES
from jvpsvd.errors import ArgumentError, DiskError, ShardError
from jvpsvd.imports import require
from jvpsvd.machine import writing, written_aside


@dataclass(frozen=True)
class Photo:
    """A photo on disk, with its entry in a shard."""

    file: Path
    key: str
    label: int
    record: dict[str, str]
    """Content of the sample's .json: file, class, and wnid if the class's name is one."""


@dataclass(frozen=True)
class Folder:
    """The photos of a folder, and the files left out, by reason."""

    photos: tuple[Photo, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class LeftOut:
    """Files of a folder that are not packed for one reason."""

    reason: str
    files: tuple[Path, ...]
    may_be_photos: bool
    """Whether photos may be among them."""

    def __str__(self) -> str:
        shown = ", ".join(f"{str(file)[-200:]!r}"[1:-1] for file in self.files[:_NAMED])
        more = ", …" if len(self.files) > _NAMED else ""
        reason = _ONE.get(self.reason, self.reason) if len(self.files) == 1 else self.reason
        return f"left out: {len(self.files)} {reason} ({shown}{more})"


_NAMED = 3
_LINK, _BROKEN = "links to folders below a class", "links to what is not there"
_LOOSE = "photos outside of a folder of a class"
_NO_ENDING = "files without an ending; give them the ending of their format"
_OTHER_IMAGES = f"images of another format than {', '.join(PHOTO_SUFFIXES)}"
_ODD, _REST, _HIDDEN = "pipes, sockets or devices", "files of another kind", "hidden files"
_EMPTY = "folders of a class without a photo, which keep their label"
_ONE = {
    _LINK: "link to a folder below a class",
    _BROKEN: "link to what is not there",
    _LOOSE: "photo outside of a folder of a class",
    _NO_ENDING: "file without an ending; give it the ending of its format",
    _OTHER_IMAGES: f"image of another format than {', '.join(PHOTO_SUFFIXES)}",
    _ODD: "pipe, socket or device",
    _REST: "file of another kind",
    _HIDDEN: "hidden file",
    _EMPTY: "folder of a class without a photo, which keeps its label",
}
"""The same reasons of a single file."""
_NO_PHOTOS = (_REST, _HIDDEN, _EMPTY)
_IMAGES = (
    *("heic", "heif", "hif", "jxl", "jp2", "j2k", "jpx", "jxr", "svg", "tga", "psd", "ico", "pgm"),
    *("pbm", "pnm", "pfm", "exr", "hdr", "dng", "raw", "cr2", "cr3", "nef", "arw", "orf", "rw2"),
    *("dds", "eps", "pcx", "icns", "apng", "mpo", "jpg_large", "jpg_small"),
)
"""File endings of images that are not read here."""


def photos_by_class(folder: str | os.PathLike[str]) -> list[Photo]:
    """Return the photos of `list_folder`, without the files left out.

    Raises:
        ShardError: If the folder is missing or holds no class folders with photos.
    """
    return list(list_folder(folder).photos)


def list_folder(folder: str | os.PathLike[str]) -> Folder:
    """Return the photos of `folder`/CLASS and the folders below it, and the files left out.

    The label is the index of CLASS in sorted order; folders without photos count too. Hidden files
    and folders, `__MACOSX` and links to folders below a class are not entered.

    Raises:
        ShardError: If the folder is missing, cannot be read, or holds no class folders with photos.
    """
    folder = as_path("folder", folder, "a folder")
    if not folder.is_dir():
        raise ShardError(f"no folder {folder}; give a folder that holds one folder per class")
    left_out: dict[str, list[Path]] = {}
    try:
        classes = _classes(folder, left_out)
        listed = [(entry, list(_files(entry, left_out))) for entry in classes]
    except OSError as error:
        raise ShardError(f"{error.filename} cannot be read: {error.strerror}") from error
    found: list[Photo] = []
    keys: dict[str, int] = {}
    for label, (entry, files) in enumerate(listed):
        record = {"class": entry.name}
        if re.fullmatch(r"n[0-9]{8}", entry.name):
            record["wnid"] = entry.name
        if not files:
            left_out.setdefault(_EMPTY, []).append(entry)
        for file in files:
            inside = file.relative_to(entry)
            key = _unused(f"{entry.name}_{inside.with_suffix('')}", keys)
            found.append(Photo(file, key, label, {**record, "file": inside.as_posix()}))
    rest = tuple(
        LeftOut(reason, tuple(files), reason not in _NO_PHOTOS)
        for reason, files in sorted(left_out.items())
    )
    if not found:
        more = "".join(f"; {one}" for one in rest if one.may_be_photos)
        raise ShardError(
            f"no photos in {folder}/CLASS/; put them there as {', '.join(PHOTO_SUFFIXES[:3])}, …"
            f"{more}"
        )
    return Folder(tuple(found), rest)


def _classes(folder: Path, left_out: dict[str, list[Path]]) -> list[Path]:
    """Return the class folders, and note other files as left out."""
    classes = []
    for entry in sorted(folder.iterdir()):
        if _is_hidden(entry):
            left_out.setdefault(_HIDDEN, []).append(entry)
        elif entry.is_dir():
            classes.append(entry)
        else:
            reason = _why_not(entry) or _LOOSE
            left_out.setdefault(reason, []).append(entry)
    return classes


def _files(folder: Path, left_out: dict[str, list[Path]]) -> Iterator[Path]:
    """Yield the photos of a folder and those below it, in the order of their names."""
    for entry in sorted(folder.iterdir()):
        if _is_hidden(entry):
            left_out.setdefault(_HIDDEN, []).append(entry)
        elif entry.is_dir() and entry.is_symlink():  # it may form a loop
            left_out.setdefault(_LINK, []).append(entry)
        elif entry.is_dir():
            yield from _files(entry, left_out)
        elif reason := _why_not(entry):
            left_out.setdefault(reason, []).append(entry)
        else:
            yield entry


def _is_hidden(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _why_not(file: Path) -> str:
    """Return why a file cannot be packed; "" if it can."""
    ending = file.suffix[1:].lower()
    if not file.is_file():
        return _ODD if file.exists() else _BROKEN
    if ending in PHOTO_SUFFIXES:
        return ""
    if not ending:
        return _NO_ENDING
    return _OTHER_IMAGES if ending in _IMAGES else _REST


def _unused(name: str, keys: dict[str, int]) -> str:
    """Return an unused key for a name, without dots (they end a key) and slashes (as in a path)."""
    key = wanted = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    while key in keys:
        keys[wanted] += 1
        key = f"{wanted}_{keys[wanted]}"
    keys[key] = 1
    return key


def pack(
    photos: Iterable[Photo],
    out: str | os.PathLike[str],
    *,
    stem: str = "photos",
    per_shard: int = 1000,
    source: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write photos to shards `out`/`stem`-000000.tar, …; equal photos give equal bytes.

    All shards are written or none: they are written to a folder inside `out`, and moved when the
    last one is complete. `find_shards` refuses a folder in which this was interrupted.

    Args:
        photos: Photos to write.
        out: A folder for the shards, apart from the photos.
        stem: Beginning of the shards' names.
        per_shard: Photos per shard.
        source: The folder that the photos were listed from, if any.

    Raises:
        ArgumentError: If `per_shard` < 1.
        ShardError: If `out` lies in `source`, or photos lie in `out`; if `out` already holds shards
            of this stem, is a file, or is being packed into; or if a photo cannot be read.
        DiskError: If a shard cannot be written.
    """
    if per_shard < 1:
        raise ArgumentError(f"{per_shard} photos per shard; write at least 1")
    out = as_path("out", out, "a folder")
    source = None if source is None else as_path("source", source, "a folder")
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise ShardError(
            f"{out} lies in {source}, where it would count as a class the next time; choose a "
            "folder outside of it"
        )
    if out.exists() and not out.is_dir():
        raise ShardError(f"{out} is a file; choose a folder for the shards")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    refuse_unfinished(out)
    if any(out.glob(f"{stem}-*.tar")):
        raise ShardError(f"{out} already holds shards {stem}-*.tar; choose another folder")
    aside = out / unfinished(stem)
    try:
        with writing(aside):
            aside.mkdir()
    except DiskError:
        refuse_unfinished(out)  # created in the meantime
        raise
    try:
        written = [
            write_shard(aside / f"{stem}-{number:06d}.tar", part)
            for number, part in enumerate(_batches(_outside(photos, out.resolve()), per_shard))
        ]
        moved: list[Path] = []
        try:
            for shard in written:
                moved.append(out / shard.name)
                with writing(moved[-1]):
                    shard.replace(moved[-1])
        except BaseException:
            for shard in moved:
                shard.unlink(missing_ok=True)
            raise
    finally:
        shutil.rmtree(aside)
    return moved


def _outside(photos: Iterable[Photo], out: Path) -> Iterator[Photo]:
    """Yield the photos. Raise ShardError for one inside the folder of the shards."""
    seen: set[Path] = set()
    for photo in photos:
        folder = photo.file.parent
        if folder not in seen and folder.resolve().is_relative_to(out):
            raise ShardError(f"{photo.file} lies in {out}; choose a folder without photos")
        seen.add(folder)
        yield photo


def _batches(photos: Iterable[Photo], size: int) -> Iterator[tuple[Photo, ...]]:
    rest = iter(photos)
    while batch := tuple(islice(rest, size)):
        yield batch


def write_shard(shard: Path, photos: Iterable[Photo]) -> Path:
    """Write photos to one shard, then give it its name; equal photos give equal bytes.

    Raises:
        DiskError: If it cannot be written.
        ShardError: If a photo cannot be read.
    """
    with written_aside(shard) as aside, writing(shard), aside.open("wb") as file:
        _write(file, photos)
    return shard


def _write(file: BinaryIO, photos: Iterable[Photo]) -> None:
    require("packing photos", "survey", "webdataset")
    import webdataset

    with webdataset.TarWriter(
        file, encoder=False, user="", group="", mode=0o644, mtime=0, format="PAX_FORMAT"
    ) as writer:
        for photo in photos:
            try:
                data = photo.file.read_bytes()
            except OSError as error:
                raise ShardError(
                    f"{photo.file} cannot be read: {error.strerror or error}; nothing was packed"
                ) from error
            writer.write(
                {
                    "__key__": photo.key,
                    photo.file.suffix[1:].lower(): data,
                    "cls": str(photo.label).encode(),
                    "json": json.dumps(photo.record, sort_keys=True).encode(),
                }
            )
