"""The embedded default: 20 ImageNet photos that come with the package foolbox (MIT)."""

from __future__ import annotations

import re
from pathlib import Path

from jvpsvd.data.pack import Photo, write_shard
from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.errors import ShardError
from jvpsvd.imports import package_folder
from jvpsvd.machine import writing

DEMO_SHARD = "foolbox-000000.tar"
"""The name of the shard that the photos are packed into."""


def demo_photos() -> list[Photo]:
    """Return the 20 photos, labelled by their ILSVRC class index; foolbox itself is not imported.

    Raises:
        MissingPackageError: If the package is not installed.
    """
    found = []
    folder = package_folder("the demo of photos", "demo", "foolbox")
    for file in (folder / "data").glob("imagenet_*.jpg"):
        match = re.fullmatch(r"imagenet_(\d+)_(\d+)", file.stem)
        if match is not None:
            wnid = ilsvrc_hierarchy().classes[int(match[2])]
            record = {"class": ilsvrc_hierarchy().name(wnid), "wnid": wnid}
            found.append(Photo(file, file.stem, int(match[2]), record))
    return sorted(found, key=lambda photo: photo.key)


def demo_shards(run: Path) -> list[Path]:
    """Return the photos as a shard in `run`/shards, packed at the first call.

    Raises:
        MissingPackageError: If the package is not installed.
        DiskError: If they cannot be written.
        ShardError: If `run` is a run over other shards or no run.
    """
    shard = run / "shards" / DEMO_SHARD
    if not shard.is_file():
        photos = demo_photos()
        if (run / "run.json").exists():
            raise ShardError(f"{run} is a run over other shards; name them, or another --out")
        if run.exists() and any(run.iterdir()):
            raise ShardError(f"{run} exists and is not a run; choose another --out")
        with writing(shard):
            shard.parent.mkdir(parents=True, exist_ok=True)
        write_shard(shard, photos)
    return [shard]
