"""Labelled photos in WebDataset shards: tar files whose members are read, never executed.

A sample is a run of members with one key: `KEY.jpg` (or another photo suffix), with optional
`KEY.cls` (class index) and `KEY.json` (an object that may hold a wnid). As in WebDataset the key is
the member's name up to the first dot of its last part. `walk` reads headers and labels only, and
`read_photos` the photos where `walk` found them. WebDataset's own reader is not used: its openers
run a shell (`pipe:`), its `decode` runs pickles, and a header that promises too much keeps it busy
for ever. Member names are strings, never paths.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from webdataset.tariterators import base_plus_ext

from jvpsvd.data.locations import Shard, opened
from jvpsvd.data.photos import PHOTO_SUFFIXES
from jvpsvd.errors import ShardError

_LABEL_BYTES = 1 << 16
_PHOTO_BYTES = 1 << 29
_LARGEST_LABEL = (1 << 63) - 1
# Members that WebDataset keeps for itself.
_META = r"__[^/]*__($|/)"


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard, as its headers and labels describe it."""

    shard: str
    """File name of the shard."""
    key: str
    """WebDataset key; empty where a whole shard failed."""
    offset: int
    """Byte where the photo's payload begins; −1 without a photo."""
    size: int
    """Bytes of the photo."""
    label: int | None
    """Class index from `.cls`."""
    wnid: str | None
    """WordNet id from `.json`."""
    problem: str = ""
    """Kind of failure that is known before decoding; empty if there is none."""
    message: str = ""
    """The problem in words."""


def walk(shard: Shard) -> list[Sample]:
    """List the samples of a shard from its headers and labels, without reading a photo.

    Keys that repeat or are scattered, samples without a photo, unreadable labels and the sample at
    which a shard is cut short come back with their `problem` set.

    Raises:
        ShardError: If the file cannot be read as an uncompressed tar at all.
    """
    try:
        with opened(shard) as file:
            groups, cut = _groups(file)
            length = file.seek(0, 2)
            samples = [_sample(shard.name, key, members, file) for key, members in groups]
    except OSError as error:
        raise ShardError(f"{shard} cannot be read: {error.strerror or error}") from error
    except tarfile.TarError as error:
        raise ShardError(f"{shard} cannot be read as a tar file: {error}") from error
    return _with_problems(samples, length, cut)


def read_photos(shard: Shard, samples: Sequence[Sample]) -> Iterator[tuple[Sample, bytes | None]]:
    """Yield (sample, photo bytes) of samples that `walk` found without a problem, in their order.

    Each photo is read where it lies, and its header again before it. A sample that the shard no
    longer holds as `walk` saw it comes last, with None.
    """
    owed = list(samples)
    lost: list[Sample] = []
    try:
        with opened(shard) as file:
            while owed:
                photo = _photo(file, owed[0])
                sample = owed.pop(0)
                if photo is None:
                    lost.append(sample)
                else:
                    yield sample, photo
    except (OSError, ShardError):
        pass  # the shard went away: what it still owed follows
    for sample in [*lost, *owed]:
        yield sample, None


def _photo(file: BinaryIO, sample: Sample) -> bytes | None:
    """Return the payload of a sample's photo if its header is still the one that was listed."""
    file.seek(sample.offset - tarfile.BLOCKSIZE)
    try:
        header = tarfile.TarInfo.frombuf(
            file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape"
        )
    except tarfile.TarError:
        return None
    # Not its name: one that is long or not ASCII stands in a header of its own before this one.
    if not header.isreg() or header.size != sample.size:
        return None
    photo = file.read(sample.size)
    return photo if len(photo) == sample.size else None


_Group = tuple[str, dict[str, list[tarfile.TarInfo]]]


def _groups(file: BinaryIO) -> tuple[list[_Group], bool]:
    """Return runs of members with one key, and whether the tar ends before its end mark."""
    groups: list[_Group] = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                key, suffix = _key(member.name)
                if key is None or not member.isreg() or re.match(_META, member.name):
                    continue
                if not groups or groups[-1][0] != key:
                    groups.append((key, {}))
                groups[-1][1].setdefault(suffix.lower(), []).append(member)
                if member.size < 0:  # it would be read again and again
                    raise tarfile.ReadError("a member of negative size")
            end = tar.offset
    except tarfile.ReadError:
        if not groups:
            raise
        return groups, True
    return groups, not _is_end(file, end)


def _is_end(file: BinaryIO, offset: int) -> bool:
    """Whether nothing but the zeros that fill the last record follows.

    tarfile takes a missing or garbled header, and any block of zeros, for the end of the archive;
    members may well follow (`cat a.tar b.tar`), or have been lost to zeros.
    """
    file.seek(offset)
    # Two blocks of zeros, and as many as fill the record in which the second one lies.
    most = tarfile.RECORDSIZE + tarfile.BLOCKSIZE
    rest = file.read(most + 1)
    return tarfile.BLOCKSIZE <= len(rest) <= most and not any(rest)


def _key(name: str) -> tuple[str | None, str]:
    """Return the key and suffix of a member; what cannot be printed or stored is escaped."""
    key, suffix = base_plus_ext(name)
    if key is None:
        return None, ""
    escaped = "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in key
    )
    return escaped, suffix


def _sample(
    shard: str, key: str, members: dict[str, list[tarfile.TarInfo]], file: BinaryIO
) -> Sample:
    photos = [member for s in PHOTO_SUFFIXES for member in members.get(s, [])]
    sample = Sample(
        shard,
        key,
        offset=photos[0].offset_data if photos else -1,
        size=photos[0].size if photos else 0,
        label=None,
        wnid=None,
    )
    if not photos:
        return _failed(sample, "no-photo", f"no photo among {', '.join(sorted(members))}")
    if photos[0].issparse() or photos[0].size > _PHOTO_BYTES:
        return _failed(sample, "too-large", f"a photo of {photos[0].size} bytes, or a sparse file")
    if any(len(copies) > 1 for copies in members.values()) or len(photos) > 1:
        return _failed(sample, "duplicate-key", "several members of one kind share this key")
    try:
        label = members.get("cls")
        if label:
            sample = replace(sample, label=_label(_payload(label[0], file)))
        record = members.get("json")
        if record:
            sample = replace(sample, wnid=_wnid(json.loads(_payload(record[0], file))))
    # UnicodeDecodeError and JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        return _failed(sample, "bad-label", f"label cannot be read: {error}")
    return sample


def _payload(member: tarfile.TarInfo, file: BinaryIO) -> str:
    if not 0 <= member.size <= _LABEL_BYTES:
        raise ValueError(f"{member.size} bytes are no size of a label")
    file.seek(member.offset_data)
    return file.read(member.size).decode().strip()


def _label(text: str) -> int:
    label = int(text)
    if not 0 <= label <= _LARGEST_LABEL:
        raise ValueError(f"{text[:30]} is no class index")
    return label


def _wnid(record: Any) -> str | None:
    wnid = record.get("wnid") if isinstance(record, dict) else None
    return wnid if isinstance(wnid, str) and re.fullmatch(r"n[0-9]{8}", wnid) else None


def _with_problems(samples: list[Sample], length: int, cut: bool) -> list[Sample]:
    counts: dict[str, int] = {}
    for sample in samples:
        counts[sample.key] = counts.get(sample.key, 0) + 1
    kept: dict[str, Sample] = {}
    for index, sample in enumerate(samples):
        if counts[sample.key] > 1:
            sample = _failed(sample, "duplicate-key", "this key comes back later in the shard")
        elif cut and (index == len(samples) - 1 or sample.offset + sample.size > length):
            sample = _failed(sample, "truncated", "the shard is cut short in or after this sample")
        kept.setdefault(sample.key, sample)
    return list(kept.values())


def _failed(sample: Sample, problem: str, message: str) -> Sample:
    return replace(sample, problem=problem, message=message)
