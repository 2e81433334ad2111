"""Labelled photos in WebDataset shards: tar files whose members are read, never executed.

A sample is a run of members with one key: `KEY.jpg` (or another photo suffix), with optional
`KEY.cls` (class index) and `KEY.json` (an object that may hold "wnid", and "class" for the name of
the class). As in WebDataset the key is the member's name up to the first dot of its last part.
`walk` reads headers and labels only, and `read_photos` reads the photos that `walk` found.
WebDataset's own reader is not used: its openers run a shell (`pipe:`), its `decode` runs pickles,
and a header with a false size makes it hang. Member names are strings, never paths.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

from jvpsvd.data.locations import Shard, as_shard, opened
from jvpsvd.data.suffixes import PHOTO_SUFFIXES
from jvpsvd.data.tar_members import compression, read_members
from jvpsvd.errors import ShardError
from jvpsvd.text_table import count_noun

logger = logging.getLogger(__name__)

_LABEL_BYTES = 1 << 16
_RECORD_BYTES = 1 << 22
_PHOTO_BYTES = 1 << 29
_LARGEST_LABEL = (1 << 63) - 1
_NAMES_IN_A_MESSAGE = 3
_NAME_LENGTH = 200
# Members that WebDataset uses for itself, and the extra files that macOS adds.
_NO_MEMBER = re.compile(
    r"__[^/]*__($|/)|(.*/)?__MACOSX(/|$)|(.*/)?(\._[^/]*|\.DS_Store)$", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard, as its headers and labels describe it."""

    shard: str
    """File name of the shard."""
    key: str
    """WebDataset key; empty for a whole shard that failed, and for the lost part of a cut shard."""
    offset: int
    """Offset of the photo's payload; −1 without a photo."""
    size: int
    """Bytes of the photo."""
    label: int | None
    """Class index from `.cls`."""
    wnid: str | None
    """WordNet id from `.json`."""
    problem: str = ""
    """Kind of failure found before decoding; empty if there is none."""
    message: str = ""
    """The problem in words."""
    class_name: str | None = None
    """Name of the class from `.json`."""


def walk(
    shard: Shard | str | os.PathLike[str], suffixes: Sequence[str] = PHOTO_SUFFIXES
) -> list[Sample]:
    """List the samples of a shard from its headers and labels, without reading a photo.

    Members with one of the suffixes are the photos, or whatever else a network takes.

    `problem` is set for samples with repeated or scattered keys, without a photo, with unreadable
    labels, or cut off by the shard's end. If a shard is cut between samples, or holds none, one
    more sample with an empty key says so.

    Raises:
        ShardError: If the file is no readable, uncompressed tar.
    """
    shard = as_shard(shard)
    try:
        with opened(shard) as file:
            return _walk(shard, file, suffixes)
    except OSError as error:
        raise ShardError(f"{shard} cannot be read: {error.strerror or error}") from error


def _walk(shard: Shard, file: BinaryIO, suffixes: Sequence[str]) -> list[Sample]:
    try:
        members, cut = read_members(file)
    except tarfile.TarError as error:
        packed = compression(file)
        reason = (
            f"it is compressed by {packed}, and photos are read where they lie; unpack it to .tar"
            if packed
            else f"{error}; replace the file"
        )
        raise ShardError(f"{shard} cannot be read as a tar file: {reason}") from error
    groups = _groups(shard.name, members)
    samples = [_sample(shard.name, group, file, suffixes) for group in groups]
    if cut and groups and not _is_whole(groups[-1], groups[:-1], length=file.seek(0, 2)):
        samples[-1] = _mark_failed(
            samples[-1], "truncated", f"the shard is cut in this sample: {cut}"
        )
    elif cut:
        message = (
            f"the shard is cut after {count_noun(len(samples), 'sample')}: {cut}; replace the file"
        )
        samples.append(Sample(shard.name, "", -1, 0, None, None, "truncated", message))
    elif not samples:
        among = count_noun(len(members), "member")
        message = f"the shard holds no sample, among {among}; see jvpsvd pack"
        samples.append(Sample(shard.name, "", -1, 0, None, None, "empty-shard", message))
    return _without_repeats(samples)


def read_photos(
    shard: Shard | str | os.PathLike[str], samples: Sequence[Sample]
) -> Iterator[tuple[Sample, bytes | None]]:
    """Yield (sample, photo bytes) of samples that `walk` found without a problem, in their order.

    Each photo is read at its offset, after its header was read again. Samples that have changed in
    the shard since `walk` come last, with None.
    """
    pending = list(samples)
    lost: list[Sample] = []
    try:
        with opened(as_shard(shard)) as file:
            while pending:
                photo = _photo(file, pending[0])
                sample = pending.pop(0)
                if photo is None:
                    lost.append(sample)
                else:
                    yield sample, photo
    except (OSError, ShardError):
        pass  # the shard went away: the pending samples follow
    for sample in [*lost, *pending]:
        yield sample, None


def _photo(file: BinaryIO, sample: Sample) -> bytes | None:
    """Return the payload of a sample's photo, or None if its header has changed."""
    if not _is_header_of(sample, file):
        return None
    photo = file.read(sample.size)
    return photo if len(photo) == sample.size else None


def _is_header_of(sample: Sample, file: BinaryIO) -> bool:
    """Whether the header before a photo states its size. Leaves the file at the photo."""
    file.seek(sample.offset - tarfile.BLOCKSIZE)
    try:
        header = tarfile.TarInfo.frombuf(
            file.read(tarfile.BLOCKSIZE), tarfile.ENCODING, "surrogateescape"
        )
    except tarfile.TarError:
        return False
    # The name is not compared: a long or non-ASCII name is in a separate header before this one.
    return header.isreg() and header.size == sample.size


@dataclass(frozen=True)
class _Group:
    """A run of members with one key."""

    key: str
    members: dict[str, list[tarfile.TarInfo]]
    """Members by suffix, in lower case."""


def _groups(shard: str, members: Sequence[tarfile.TarInfo]) -> list[_Group]:
    groups: list[_Group] = []
    left_out: list[str] = []
    for member in members:
        if member.isdir() or _NO_MEMBER.match(member.name):
            continue
        key, suffix = _key(member.name)
        if not key:
            left_out.append(member.name)
            continue
        if not groups or groups[-1].key != key:
            groups.append(_Group(key, {}))
        groups[-1].members.setdefault(suffix.lower(), []).append(member)
    if left_out:
        logger.warning(
            "%s: members that are hidden or have no ending are left out (%d: %s); name them "
            "KEY.jpg, KEY.cls, KEY.json",
            shard,
            len(left_out),
            _some(left_out),
        )
    return groups


def _key(name: str) -> tuple[str, str]:
    """Return the key and suffix of a member ("" if none), with unprintable characters escaped."""
    last = name.rfind("/") + 1
    stem, dot, suffix = name[last:].partition(".")
    if not stem or not dot:
        return "", ""
    return _escape(name[:last] + stem), suffix


def _escape(text: str) -> str:
    return "".join(
        c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text
    )


def _some(names: Sequence[str]) -> str:
    """Return a few names, for a message."""
    shown = [_escape(name[:60]) for name in names[:_NAMES_IN_A_MESSAGE]]
    return ", ".join(shown) + (", …" if len(names) > _NAMES_IN_A_MESSAGE else "")


def _is_whole(last: _Group, before: Sequence[_Group], length: int) -> bool:
    """Whether a shard that is cut after this group holds the whole group.

    It does if its members end inside the file, and it has the suffixes that most earlier groups
    have.
    """
    for members in last.members.values():
        if any(member.offset_data + member.size > length for member in members):
            return False
    counts = Counter(suffix for group in before for suffix in group.members)
    return all(suffix in last.members for suffix, n in counts.items() if 2 * n > len(before))


def _sample(shard: str, group: _Group, file: BinaryIO, suffixes: Sequence[str]) -> Sample:
    members = group.members
    photos = [member for s in suffixes for member in members.get(s, [])]
    sample = Sample(shard, group.key, -1, 0, None, None)
    if not photos:
        return _mark_failed(sample, "no-photo", _without_photo(group, suffixes))
    if not photos[0].isreg():
        return _mark_failed(sample, "no-photo", _no_file(photos[0]))
    sample = replace(sample, offset=photos[0].offset_data, size=photos[0].size)
    if photos[0].issparse() or photos[0].size > _PHOTO_BYTES:
        return _mark_failed(
            sample, "too-large", f"a photo of {photos[0].size} bytes, or a sparse file"
        )
    extended = photos[0].pax_headers or sample.offset > photos[0].offset + tarfile.BLOCKSIZE
    if extended and not _is_header_of(sample, file):  # extended headers may override its size
        return _mark_failed(sample, "no-photo", "two headers give the photo two sizes")
    if any(len(same) > 1 for same in members.values()) or len(photos) > 1:
        return _mark_failed(sample, "duplicate-key", "several members of one kind share this key")
    try:
        label = members.get("cls")
        if label:
            sample = replace(sample, label=_label(_payload(label[0], file, _LABEL_BYTES)))
        record = members.get("json")
        if record and record[0].size > _RECORD_BYTES:
            logger.warning("%s: %s.json is too large, and not read for a wnid", shard, group.key)
        elif record:
            text = _payload(record[0], file, _RECORD_BYTES)
            found = json.loads(text) if text else None
            sample = replace(sample, wnid=_wnid(found), class_name=_class_name(found))
    # UnicodeDecodeError and JSONDecodeError are ValueErrors.
    except (ValueError, RecursionError) as error:
        return _mark_failed(sample, "bad-label", f"label cannot be read: {error}")
    return sample


def _without_photo(group: _Group, suffixes: Sequence[str]) -> str:
    """Return why a sample has no photo, in words."""
    what = "photo" if suffixes is PHOTO_SUFFIXES else f".{suffixes[0]}"
    dotted = [s for s in group.members if s.rpartition(".")[2] in suffixes]
    if not dotted:
        members = _some(sorted(group.members))
        if suffixes is PHOTO_SUFFIXES:
            return f"no photo among {members}"
        return f"it has {members}, and the network's Inputs take {what}; name it so"
    count = sum(len(group.members[suffix]) for suffix in dotted)
    name = f"{group.key}.{dotted[0]}".rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    better = f"{stem.replace('.', '_')[-50:]}.{ending}"
    dot, them = (
        ("has a dot before its", "it") if count == 1 else ("have a dot before their", "them")
    )
    return (
        f"{count_noun(count, what)} {dot} ending, and a key ends at the first dot "
        f"({_some([name])}); name {them} without, as {_escape(better)}"
    )


def _no_file(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return (
            f"{_some([member.name])} is a link to {_some([member.linkname])}, and links are not "
            "followed; write the shard with tar --dereference --hard-dereference"
        )
    return f"{_some([member.name])} is a device or a pipe, not a file; leave it out of the shard"


def _payload(member: tarfile.TarInfo, file: BinaryIO, max_bytes: int) -> str:
    if not member.isreg() or member.issparse():
        raise ValueError(f"{_some([member.name])} is no plain file")
    if not 0 <= member.size <= max_bytes:
        raise ValueError(f"{member.size} bytes are no size of a label")
    file.seek(member.offset_data)
    return file.read(member.size).decode("utf-8-sig").strip()


def _label(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):  # int() also takes 1_0 and other scripts
        raise ValueError(f"{text[:30]!a} is no class index; write digits alone")
    label = int(text)
    if not 0 <= label <= _LARGEST_LABEL:
        raise ValueError(f"{text[:30]} is no class index")
    return label


def _wnid(record: Any) -> str | None:
    wnid = record.get("wnid") if isinstance(record, dict) else None
    return wnid if isinstance(wnid, str) and re.fullmatch(r"n[0-9]{8}", wnid) else None


def _class_name(record: Any) -> str | None:
    """Return the name of a class, in printable characters."""
    name = record.get("class") if isinstance(record, dict) else None
    return _escape(name[:_NAME_LENGTH].strip()) or None if isinstance(name, str) else None


def _without_repeats(samples: Sequence[Sample]) -> list[Sample]:
    """Return each key once; a key that appears again later has a problem."""
    counts = Counter(sample.key for sample in samples)
    kept: dict[str, Sample] = {}
    for sample in samples:
        if counts[sample.key] > 1:
            sample = _mark_failed(sample, "duplicate-key", "this key comes back later in the shard")
        kept.setdefault(sample.key, sample)
    return list(kept.values())


def _mark_failed(sample: Sample, problem: str, message: str) -> Sample:
    return replace(sample, problem=problem, message=message)
