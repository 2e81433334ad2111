"""The noun hierarchy of WordNet 3.0, which relates the classes of ImageNet.

A wnid is "n" and the eight digits of a synset's offset in data.noun. Its parents are its hypernyms
(a tench is a cyprinid) and, for individuals, what they are instances of; both are one edge. The
only root is "entity".

The synsets of ILSVRC's 1000 classes and their ancestors come with jvpsvd, under WordNet's licence
(wordnet30/LICENSE). examples/build_wordnet.py made that file. `read_wordnet` reads the whole
WordNet.

C. Fellbaum (ed.), "WordNet: An Electronic Lexical Database", MIT Press 1998.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from jvpsvd.data.hierarchy import Hierarchy
from jvpsvd.errors import DataError
from jvpsvd.machine import writing, written_aside

SUPERCLASSES = (
    "n02084071",  # dog
    "n01861778",  # mammal
    "n01503061",  # bird
    "n01661091",  # reptile
    "n01627424",  # amphibian
    "n02512053",  # fish
    "n01905661",  # invertebrate
    "n00007846",  # person
    "n00017222",  # plant
    "n13134947",  # fruit
    "n12992868",  # fungus
    "n07555863",  # food, a solid
    "n00021265",  # food, a substance
    "n09287968",  # geological formation
    "n04524313",  # vehicle
    "n03183080",  # device
    "n03094503",  # container
    "n03122748",  # covering
    "n04341686",  # structure
    "n03405265",  # furnishing
    "n00021939",  # artifact
    "n00001740",  # entity
)
"""Superclasses among which `Hierarchy.superclass` can choose for the classes of ILSVRC."""

_SHIPPED = Path(__file__).with_name("wordnet30") / "nouns.tsv"
_COLUMNS = ("wnid", "class", "parents", "lemmas")
_WNID = re.compile(r"n[0-9]{8}")
_HYPERNYMS = ("@", "@i")


@functools.cache
def ilsvrc_hierarchy() -> Hierarchy:
    """Return the 1000 classes of ILSVRC-2012 in index order, and all their ancestors.

    Raises:
        DataError: If the file that comes with jvpsvd is missing or damaged.

    >>> hierarchy = ilsvrc_hierarchy()
    >>> tench = hierarchy.classes[0]
    >>> tench, hierarchy.name(tench), hierarchy.name(hierarchy.superclass(tench, SUPERCLASSES))
    ('n01440764', 'tench', 'fish')
    """
    return read_hierarchy(_SHIPPED)


def read_wordnet(folder: str | Path) -> Hierarchy:
    """Return all nouns of a WordNet folder (the one with data.noun), without classes.

    ImageNet's wnids are offsets in WordNet 3.0; other versions have other offsets. Debian's package
    wordnet-base installs 3.0 in /usr/share/wordnet.

    Raises:
        DataError: If data.noun is missing, a line is not as in wndb(5WN), a synset does not begin
            at its own offset, or a hypernym is missing.
    """
    file = Path(folder) / "data.noun"
    lemmas: dict[str, tuple[str, ...]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    start = 0
    for number, line in enumerate(_read(file).splitlines(keepends=True), 1):
        if not line.startswith(b"  "):  # two spaces begin a line of the licence
            try:
                offset, words, above = _noun(line.decode("ascii").rstrip("\r\n"))
            except (ValueError, IndexError):
                raise _malformed(file, number) from None
            if int(offset) != start:
                raise DataError(
                    f"{file}, line {number} begins at byte {start} and says {offset}; the file was "
                    "altered, get WordNet again"
                )
            lemmas[f"n{offset}"], parents[f"n{offset}"] = words, above
        start += len(line)
    return _hierarchy(file, lemmas, parents, ())


def read_hierarchy(file: str | Path) -> Hierarchy:
    """Return the hierarchy that `write_hierarchy` wrote.

    Raises:
        DataError: If the file is missing, or a line is malformed.
    """
    file = Path(file)
    lemmas: dict[str, tuple[str, ...]] = {}
    parents: dict[str, tuple[str, ...]] = {}
    classes: dict[int, str] = {}
    try:
        lines = _read(file).decode().splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{file} is no text in UTF-8; get it again") from None
    rows = [(i, line) for i, line in enumerate(lines, 1) if line and not line.startswith("#")]
    if not rows or tuple(rows[0][1].split("\t")) != _COLUMNS:
        raise DataError(f"{file} does not begin with the columns {', '.join(_COLUMNS)}")
    for number, line in rows[1:]:
        fields = line.split("\t")
        wnid = fields[0]
        if len(fields) != len(_COLUMNS) or not _WNID.fullmatch(wnid) or wnid in parents:
            raise _malformed(file, number)
        if fields[1]:
            if not re.fullmatch("[0-9]+", fields[1]) or int(fields[1]) in classes:
                raise _malformed(file, number)
            classes[int(fields[1])] = wnid
        parents[wnid] = tuple(fields[2].split())
        lemmas[wnid] = tuple(word for word in fields[3].split("|") if word)
    if sorted(classes) != list(range(len(classes))):
        raise DataError(f"{file} does not number its {len(classes)} classes from 0 without a hole")
    return _hierarchy(file, lemmas, parents, tuple(classes[i] for i in range(len(classes))))


def write_hierarchy(hierarchy: Hierarchy, file: str | Path, notice: str = "") -> None:
    """Write a hierarchy as tab-separated text, one synset a line, after a notice in comments.

    Raises:
        DiskError: If the file cannot be written.
    """
    index = {wnid: str(i) for i, wnid in enumerate(hierarchy.classes)}
    lines = [f"# {line}" for line in notice.splitlines()]
    lines.append("\t".join(_COLUMNS))
    for wnid, above in hierarchy.parents.items():
        words = "|".join(hierarchy.lemmas[wnid])
        lines.append("\t".join((wnid, index.get(wnid, ""), " ".join(above), words)))
    with written_aside(file) as aside, writing(file):
        aside.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _noun(line: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Return offset, words and hypernyms of a line of data.noun, or raise Value- or IndexError.

    offset file type words(hex) [word id]… pointers [symbol offset part-of-speech source]… | gloss
    """
    data, bar, _ = line.partition(" | ")
    fields = data.split()
    words, at = int(fields[3], 16), 4 + 2 * int(fields[3], 16)
    pointers, ends = int(fields[at]), at + 1 + 4 * int(fields[at])
    if not bar or fields[2] != "n" or words < 1 or pointers < 0 or len(fields) != ends:
        raise ValueError
    above = tuple(f"n{fields[i + 1]}" for i in range(at + 1, ends, 4) if fields[i] in _HYPERNYMS)
    if not all(_WNID.fullmatch(wnid) for wnid in (f"n{fields[0]}", *above)):
        raise ValueError
    return fields[0], tuple(word.replace("_", " ") for word in fields[4:at:2]), above


def _hierarchy(
    file: Path,
    lemmas: dict[str, tuple[str, ...]],
    parents: dict[str, tuple[str, ...]],
    classes: tuple[str, ...],
) -> Hierarchy:
    if not parents:
        raise DataError(f"{file} holds no synset; get it again")
    try:
        return Hierarchy(lemmas, parents, classes)
    except DataError as error:
        raise DataError(f"{file} is damaged: {error}; get it again") from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); give WordNet's files") from None


def _malformed(file: Path, number: int) -> DataError:
    return DataError(f"{file}, line {number} is not as it should be; get the file again")
