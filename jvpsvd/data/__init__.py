"""Labelled photos: shards, decoding, packing, and the embedded demo.

>>> import tempfile
>>> from pathlib import Path
>>> from PIL import Image
>>> from jvpsvd.data import find_shards, pack, photos_by_class, read_photos, walk
>>> root = Path(tempfile.mkdtemp())
>>> for name in ("cat", "dog"):
...     (root / "photos" / name).mkdir(parents=True)
...     Image.new("RGB", (32, 32)).save(root / "photos" / name / "one.png")
>>> shards = pack(photos_by_class(root / "photos"), root / "shards")
>>> shards == find_shards(f"{root}/shards/photos-{{000000..000000}}.tar")
True
>>> [(sample.key, sample.label, sample.problem) for sample in walk(shards[0])]
[('cat_one', 0, ''), ('dog_one', 1, '')]
>>> [len(photo) > 50 for _, photo in read_photos(shards[0], walk(shards[0]))]
[True, True]
"""

from typing import TYPE_CHECKING

from jvpsvd.imports import import_at_first_use

if TYPE_CHECKING:
    from jvpsvd.data.demo import demo_photos, demo_shards
    from jvpsvd.data.inputs import decode_input, inputs_as_written, suffixes_of, write_inputs
    from jvpsvd.data.locations import (
        UNREADABLE,
        RemoteShard,
        Shard,
        find_shards,
        fingerprint,
        fingerprints,
    )
    from jvpsvd.data.pack import Folder, LeftOut, Photo, list_folder, pack, photos_by_class
    from jvpsvd.data.photos import decode_photo
    from jvpsvd.data.shards import Sample, read_photos, walk
    from jvpsvd.data.suffixes import PHOTO_SUFFIXES
else:
    import_at_first_use(__name__)

__all__ = [
    "PHOTO_SUFFIXES",
    "UNREADABLE",
    "Folder",
    "LeftOut",
    "Photo",
    "RemoteShard",
    "Sample",
    "Shard",
    "decode_input",
    "decode_photo",
    "demo_photos",
    "demo_shards",
    "find_shards",
    "fingerprint",
    "fingerprints",
    "inputs_as_written",
    "list_folder",
    "pack",
    "photos_by_class",
    "read_photos",
    "suffixes_of",
    "walk",
    "write_inputs",
]
