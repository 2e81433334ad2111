"""Which photos of a collection a survey visits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jvpsvd.arguments import listed_names, whole_number
from jvpsvd.data import Sample
from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.errors import ArgumentError

CHOICES = ("random", "first")
LABEL, NAME = "label:", "name:"
"""What stands before a class whose text may be a label or a name."""


@dataclass(frozen=True)
class PhotoSelection:
    """Which photos: all of them, unless a field says less.

    Raises:
        ArgumentError: On a number below 1, no class at all, or an unknown choice.

    >>> PhotoSelection(per_class=10, choice="first").limit is None
    True
    """

    classes: str | Sequence[str] | None = None
    """Only photos of these classes: labels, wnids or names, as "2", "n01440764" and "circles".
    Digits are a label, or a name where no sample has that label; "name:2" and "label:2" say it."""
    per_class: int | None = None
    """At most so many photos of each class."""
    limit: int | None = None
    """At most so many photos."""
    choice: str | None = None
    """Which of too many: "random" (the seed decides) or "first"; None: "random", or "first" in the
    demo."""

    def __post_init__(self) -> None:
        for name, count in (("limit", self.limit), ("per_class", self.per_class)):
            if count is not None:  # of NumPy's too, which JSON does not take
                object.__setattr__(self, name, whole_number(name, count, 1))
        if self.choice is not None and self.choice not in CHOICES:
            raise ArgumentError(f"choice={self.choice!r} is unknown; use {' or '.join(CHOICES)}")
        if self.classes is None:
            return
        classes = tuple(listed_names("classes", self.classes))
        if not classes or self.classes == "":
            raise ArgumentError("classes are empty; name class names, labels or wnids")
        object.__setattr__(self, "classes", classes)

    def completed(self, defaults: PhotoSelection) -> PhotoSelection:
        """Return the selection with limit and choice of the defaults, and each class named once."""
        return PhotoSelection(
            None if self.classes is None else tuple(sorted(set(self.classes))),
            self.per_class,
            defaults.limit if self.limit is None else self.limit,
            self.choice or defaults.choice,
        )


def select_samples(samples: Iterable[Sample], selection: PhotoSelection, seed: int) -> list[Sample]:
    """Return the selected samples, in their order.

    The samples of the `classes` are taken first, then `per_class` of each class, then `limit` of
    these: the first ones, or those that rank first under the seed, so that a smaller number selects
    a part of what a larger one does. The class of a sample is its index, or else its wnid or name;
    samples without any are one class. Shards that failed as a whole are always listed.
    """
    wanted = None if selection.classes is None else with_wnids(selection.classes)
    of_classes = (s for s in samples if not s.key or is_of_classes(s, wanted))
    if selection.choice == "first":
        return _select_first(of_classes, selection)
    if selection.per_class is None and selection.limit is None:
        return list(of_classes)
    everything = list(of_classes)
    ranked = [index for index, sample in enumerate(everything) if sample.key]
    ranked.sort(key=lambda index: rank_by_hash(everything[index], seed))
    if selection.per_class is not None:
        count: Counter[object] = Counter()
        kept = []
        for index in ranked:
            count[_class_of(everything[index])] += 1
            if count[_class_of(everything[index])] <= selection.per_class:
                kept.append(index)
        ranked = kept
    failed = [index for index, sample in enumerate(everything) if not sample.key]
    return [everything[index] for index in sorted([*ranked[: selection.limit], *failed])]


def rank_by_hash(sample: Sample, seed: int | None = None) -> bytes:
    """Return a sort key that depends on nothing but the name of a sample, and a seed if given.

    >>> one, two = (Sample("a.tar", key, 0, 1, None, None) for key in ("cat", "dog"))
    >>> rank_by_hash(one, seed=0) < rank_by_hash(two, seed=0)
    True
    """
    name = f"{sample.shard}/{sample.key}" if seed is None else f"{seed}/{sample.shard}/{sample.key}"
    return hashlib.sha256(name.encode(errors="replace")).digest()


def _select_first(samples: Iterable[Sample], selection: PhotoSelection) -> list[Sample]:
    of_class: Counter[object] = Counter()
    selected: list[Sample] = []
    count = 0
    for sample in samples:
        if not sample.key:
            selected.append(sample)
            continue
        of_class[_class_of(sample)] += 1
        if selection.per_class is None or of_class[_class_of(sample)] <= selection.per_class:
            selected.append(sample)
            count += 1
            if count == selection.limit:
                break  # the shards that follow need not be walked
    return selected


def with_wnids(classes: Sequence[str]) -> frozenset[str]:
    """Return classes, and the wnids of those that are named as classes of ILSVRC are.

    >>> sorted(with_wnids(["tench", "circles", "7"]))
    ['7', 'circles', 'n01440764', 'tench']
    """
    named = {name for name in classes if not re.fullmatch("[0-9]+|n[0-9]{8}", name)}
    known = ilsvrc_hierarchy() if named else None
    wnids = () if known is None else (w for w in known.classes if known.name(w) in named)
    return frozenset((*classes, *wnids))


def is_of_classes(sample: Sample, classes: frozenset[str] | None) -> bool:
    """Return whether a sample has the label, wnid or name of one of these classes.

    Digits are both here: `ClassChoice` refuses those that are the label of one class and the name
    of another.

    >>> sample = Sample("a.tar", "cat", 0, 1, 0, None, class_name="1")
    >>> names = ("0", "1", "label:0", "name:1", "label:1", "name:0")
    >>> [is_of_classes(sample, frozenset([name])) for name in names]
    [True, True, True, True, False, False]
    """
    if classes is None or sample.wnid in classes:
        return True
    name, label = sample.class_name, sample.label
    if name is not None and not classes.isdisjoint((name, f"{NAME}{name}")):
        return True
    return label is not None and not classes.isdisjoint((str(label), f"{LABEL}{label}"))


def _class_of(sample: Sample) -> object:
    if sample.label is not None:
        return sample.label
    return sample.class_name if sample.wnid is None else sample.wnid
