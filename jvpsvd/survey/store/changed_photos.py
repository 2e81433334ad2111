"""Photos that were changed since their rows were computed: refused, not continued.

A run knows a shard by its size and its first mebibyte, so that it can begin without reading all of
it. Every row holds the checksum of its photo. Where size and time of a local shard are no longer
those that were seen before, its headers are compared with the manifest, and its photos with their
rows. A remote shard has no such time, and is compared by size and first mebibyte alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from jvpsvd.data import Sample, Shard, read_photos, suffixes_of, walk
from jvpsvd.errors import RunError, ShardError
from jvpsvd.survey.store.checksums import checksum_bytes
from jvpsvd.survey.store.notes import read_notes, write_notes
from jvpsvd.survey.store.store import Store

_SEEN = "shards.json"

_Stamp = list[int]
"""Size in bytes and time of the last change in nanoseconds."""


def refuse_changed_photos(store: Store, shards: Sequence[Shard]) -> None:
    """Compare the local shards of a run with what its manifest and rows hold of them.

    Raises:
        RunError: If a photo or a label is another one than when the run computed it.
    """
    notes = read_notes(store.folder / _SEEN)
    seen = {name: stamps for name, stamps in notes.items() if isinstance(stamps, list)}
    stamps = {shard.name: _stamp(shard) for shard in shards if isinstance(shard, Path)}
    new = {
        name: stamp
        for name, stamp in stamps.items()
        if stamp is not None and stamp not in seen.get(name, [])
    }
    if not new:
        return
    # A manifest that was just written, of shards that no process saw before, is that of the shards.
    has_rows = bool(store.layout.task_files() or store.layout.part_files())
    _compare(store, [s for s in shards if s.name in new and (has_rows or s.name in seen)])
    noted = {name: [*seen.get(name, []), stamp] for name, stamp in new.items()}
    write_notes(store.folder / _SEEN, {**seen, **noted})


def _compare(store: Store, shards: Sequence[Shard]) -> None:
    listed: dict[str, list[Sample]] = defaultdict(list)
    for sample in store.samples():
        if sample.key and not sample.problem:
            listed[sample.shard].append(sample)
    checksums, suffixes = _checksums(store), suffixes_of(store.identity.inputs)
    for shard in shards:
        try:
            now = {sample.key: sample for sample in walk(shard, suffixes)}
        except ShardError:
            continue  # its photos are rows that say so
        for sample in listed[shard.name]:
            other = now.get(sample.key)
            if other is None or _describe(other) != _describe(sample):
                raise RunError(_describe_change(store, shard, sample))
        with_rows = [s for s in listed[shard.name] if (s.shard, s.key) in checksums]
        for sample, photo in read_photos(shard, with_rows):
            if photo is not None and checksum_bytes(photo) != checksums[sample.shard, sample.key]:
                raise RunError(_describe_change(store, shard, sample))


def _checksums(store: Store) -> dict[tuple[str, str], str]:
    """Return the checksums of all photos that have rows."""
    found: dict[tuple[str, str], str] = {}
    for piece in store.scan():
        names = ("shard", "key", "photo_checksum")
        columns = (piece.unchanged[name].to_pylist() for name in names)
        for shard, key, checksum in zip(*columns, strict=True):
            if checksum is not None:
                found[shard, key] = checksum
    return found


def _describe(sample: Sample) -> tuple[object, ...]:
    return sample.offset, sample.size, sample.label, sample.wnid


def _describe_change(store: Store, shard: Shard, sample: Sample) -> str:
    return (
        f"{store.folder} is a run with other bytes in {shard}: {sample.key} was changed since; "
        "restore it, or give another --out"
    )


def _stamp(shard: Path) -> _Stamp | None:
    try:
        status = shard.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
