"""`jvpsvd pack`: folders of photos to shards, with a table of the classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from jvpsvd.commands.printing import say, say_paths, show
from jvpsvd.data import Folder, list_folder, pack
from jvpsvd.text_table import Column, TextTable, count_noun


def pack_folder(photos: Path, out: Path, per_shard: int) -> bool:
    """Pack the photos of a folder, print classes and what was left out; whether none may be."""
    found = list_folder(photos)
    written = pack(found.photos, out, per_shard=per_shard, source=photos)
    show(classes_table(found, photos))
    for one in found.left_out:
        click.echo(str(one), err=True)
    classes = len({photo.label for photo in found.photos})
    say(
        f"{count_noun(len(found.photos), 'photo')} of {count_noun(classes, 'class', 'classes')} "
        f"in {count_noun(len(written), 'shard')}"
    )
    say_paths("shards", [out])
    return not any(one.may_be_photos for one in found.left_out)


def classes_table(found: Folder, photos: Path) -> TextTable:
    """Return the classes that were packed, by label; those without photos have a label, too."""
    counts = Counter((photo.label, photo.record["class"]) for photo in found.photos)
    columns = (Column("label"), Column("class", left=True), Column("photos"))
    rows = [[str(label), name, str(count)] for (label, name), count in sorted(counts.items())]
    return TextTable(str(photos), columns, rows, "photos packed by class")
