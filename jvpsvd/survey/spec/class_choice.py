"""The classes that a run was asked for, against those that the shards hold."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence

from jvpsvd.arguments import first_names, nearest_name
from jvpsvd.data import Sample
from jvpsvd.errors import ArgumentError, ShardError
from jvpsvd.survey.spec.selection import LABEL, NAME, is_of_classes, with_wnids

logger = logging.getLogger(__name__)

_SHOWN = 12  # classes in a message


class ClassChoice:
    """Which of the classes asked for the samples met so far belong to.

    >>> choice = ClassChoice(["circles", "7"])
    >>> choice.meet([Sample("a.tar", "cat", 0, 1, 3, None, class_name="circles")])
    >>> choice.missing
    ['7']
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.missing = list(names)
        self._wanted = {name: with_wnids([name]) for name in names}
        self._classes: dict[tuple[object, ...], Sample] = {}
        self._failed = False

    def meet(self, samples: Collection[Sample]) -> None:
        """Take note of the classes of these samples."""
        for sample in samples:
            self._failed |= not sample.key
            key = (sample.label, sample.wnid, sample.class_name)
            if sample.key and any(part is not None for part in key) and key not in self._classes:
                self._classes[key] = sample
                self.missing = [
                    name for name in self.missing if not is_of_classes(sample, self._wanted[name])
                ]

    @property
    def is_certain(self) -> bool:
        """Whether no sample still to come can make a name missing no longer, or ambiguous."""
        digits = any(name.isdecimal() for name in self.names)
        named = any(str(sample.class_name).isdecimal() for sample in self._classes.values())
        return not self.missing and not (digits and named)

    def refuse_ambiguous(self) -> None:
        """Refuse digits that are the label of one class and the name of another.

        Raises:
            ArgumentError: It says how to write either one.
        """
        labels = {str(sample.label) for sample in self._classes.values()}
        for name in self.names:
            for sample in self._classes.values() if name in labels else ():
                if name.isdecimal() and sample.class_name == name != str(sample.label):
                    other = "no label" if sample.label is None else f"the label {sample.label}"
                    raise ArgumentError(
                        f"the class {name} may be the label {name}, or the name of the class with "
                        f"{other}; write {LABEL}{name} or {NAME}{name}"
                    )

    def refuse_missing(self, where: str) -> None:
        """Refuse names that no sample has.

        Where a shard could not be read, a class may be in it: the log warns instead.

        Raises:
            ShardError: It names each of them, and those that are near.
        """
        if not self.missing or not self._classes:
            return
        noun = "class" if len(self.missing) == 1 else "classes"
        text = f"no sample of the {noun} {', '.join(self.missing)} in {where}; {self._hint()}"
        if self._failed and self.missing != list(self.names):
            logger.warning("%s (some shards cannot be read)", text)
            return
        raise ShardError(text)

    def _hint(self) -> str:
        words = [word for sample in self._classes.values() for word in _words_of(sample)]
        asked = [name for name in self.missing if not name.isdecimal()]
        near = dict.fromkeys(filter(None, (nearest_name(name, words) for name in asked)))
        meant = f"did you mean {' and '.join(near)}? " if near else ""
        there = list(dict.fromkeys(_describe_class(one) for one in self._classes.values()))
        return f"{meant}there are {first_names(there, _SHOWN)}"


def _words_of(sample: Sample) -> Iterator[str]:
    """Yield the words that name the class of a sample."""
    words = [sample.class_name, sample.wnid, None if sample.label is None else str(sample.label)]
    yield from dict.fromkeys(word for word in words if word)


def _describe_class(sample: Sample) -> str:
    """Return the words that name the class of a sample, in one text.

    >>> _describe_class(Sample("a.tar", "cat", 0, 1, 3, None, class_name="circles"))
    'circles (3)'
    """
    first, *rest = _words_of(sample)
    return f"{first} ({', '.join(rest)})" if rest else first
