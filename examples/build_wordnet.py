"""Build the noun hierarchy that comes with jvpsvd, from WordNet 3.0 and a list of wnids.

You learn: how the hierarchy that comes with jvpsvd was made, and how to make it again.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    pip download timm --no-deps && unzip timm-*.whl timm/data/_info/imagenet_synsets.txt
    python examples/build_wordnet.py wordnet/usr/share/wordnet timm/data/_info/imagenet_synsets.txt

Writes nouns.tsv and WordNet's LICENSE, as it stands at the head of data.noun, to --out.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from jvpsvd.data.wordnet import read_wordnet, write_hierarchy

OUT = Path(__file__).parents[1] / "jvpsvd" / "data" / "wordnet30"
NOTICE = """The classes of ILSVRC-2012 and all above them, from WordNet 3.0, which is
Copyright 2006 by Princeton University. All rights reserved. The licence is in LICENSE beside."""


def licence(folder: Path) -> str:
    """Return the text at the head of data.noun, whose lines begin with two blanks and a number."""
    with (folder / "data.noun").open(encoding="ascii") as lines:
        head = [re.match(r"  ?\s*\d+ (.*)", line) for line in lines if line.startswith("  ")]
    return "\n".join(line[1].rstrip() for line in head if line).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wordnet", type=Path, help="folder that holds data.noun")
    parser.add_argument("wnids", type=Path, help="text file, one wnid a line, in index order")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()

    hierarchy = read_wordnet(arguments.wordnet).above(arguments.wnids.read_text().split())
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_hierarchy(hierarchy, arguments.out / "nouns.tsv", NOTICE)
    (arguments.out / "LICENSE").write_text(licence(arguments.wordnet), encoding="utf-8")
    print(f"{len(hierarchy.classes)} classes, {len(hierarchy)} synsets, in {arguments.out}")


if __name__ == "__main__":
    main()
