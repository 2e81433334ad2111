"""Synsets and the graph of their parents.

A synset may have several parents, so the graph is directed and acyclic, and not a tree.
"""

from __future__ import annotations

import functools
import graphlib
from collections.abc import Mapping
from dataclasses import dataclass

from jvpsvd.errors import ArgumentError, DataError


@dataclass(frozen=True)
class Synsets:
    """Synsets with their names and parents.

    Raises:
        DataError: If a parent or class is unknown, a class comes twice, or there is a cycle.

    >>> animals = Synsets(
    ...     lemmas={"n1": ("animal",), "n2": ("fish",), "n3": ("tench", "Tinca tinca")},
    ...     parents={"n1": (), "n2": ("n1",), "n3": ("n2",)},
    ... )
    >>> animals.name("n3"), animals.roots, animals.max_depth("n3"), animals.ancestors("n3")
    ('tench', ('n1',), 2, {'n3': 0, 'n2': 1, 'n1': 2})
    """

    lemmas: Mapping[str, tuple[str, ...]]
    """Words for each wnid, the most frequent first."""
    parents: Mapping[str, tuple[str, ...]]
    """wnids of each one's parents; a root has none."""
    classes: tuple[str, ...] = ()
    """wnids in the order of a classifier's outputs; () if there is no classifier."""

    def __post_init__(self) -> None:
        for wnid, above in self.parents.items():
            unknown = [parent for parent in above if parent not in self.parents]
            if unknown:
                raise DataError(f"{wnid} has the parent {unknown[0]}, which is not there")
            if not self.lemmas.get(wnid):
                raise DataError(f"{wnid} has no name")
        for wnid in self.classes:
            if wnid not in self.parents:
                raise DataError(f"the class {wnid} is not there")
        if len(set(self.classes)) != len(self.classes):
            raise DataError("a wnid is there for two classes")
        # Find cycles here, because synsets in a cycle have no depth.
        _ = self._depths

    def __contains__(self, wnid: object) -> bool:
        return wnid in self.parents

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def roots(self) -> tuple[str, ...]:
        """Return the synsets without parents; in WordNet 3.0 only n00001740, entity."""
        return tuple(wnid for wnid, above in self.parents.items() if not above)

    def name(self, wnid: str) -> str:
        """Return the first lemma; it is not unique (there are two cranes among the classes).

        Raises:
            ArgumentError: If the wnid is unknown.
        """
        return self.lemmas[self._check(wnid)][0]

    def max_depth(self, wnid: str) -> int:
        """Return the number of edges on the longest path up to a root.

        Raises:
            ArgumentError: If the wnid is unknown.
        """
        return self._depths[self._check(wnid)]

    def ancestors(self, wnid: str) -> dict[str, int]:
        """Return a synset and its ancestors, with the fewest edges up to each, nearest first.

        Raises:
            ArgumentError: If the wnid is unknown.
        """
        found = {self._check(wnid): 0}
        for here in (reached := [wnid]):
            for parent in self.parents[here]:
                if parent not in found:
                    found[parent] = found[here] + 1
                    reached.append(parent)
        return found

    @functools.cached_property
    def _depths(self) -> dict[str, int]:
        """Number of edges on the longest path up from each synset."""
        depths: dict[str, int] = {}
        try:
            for wnid in graphlib.TopologicalSorter(self.parents).static_order():
                above = [depths[parent] for parent in self.parents[wnid]]
                depths[wnid] = max(above, default=-1) + 1
        except graphlib.CycleError as error:
            raise DataError(f"{error.args[1][0]} is above itself") from None
        return depths

    def _check(self, wnid: str) -> str:
        if wnid not in self.parents:
            raise ArgumentError(
                f"{wnid!r} is no synset among these {len(self)}; give a wnid such as "
                f"{next(iter(self.parents), 'n00001740')!r}, or read_wordnet for all nouns"
            )
        return wnid
