"""The hierarchy of synsets, and distances in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from jvpsvd.data.synsets import Synsets
from jvpsvd.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

DistanceKind = Literal["path", "wu-palmer"]


@dataclass(frozen=True)
class Hierarchy(Synsets):
    """Synsets with their names and parents, and the distances between them.

    Raises:
        DataError: If a parent or class is unknown, a class comes twice, or there is a cycle.

    >>> animals = Hierarchy(
    ...     lemmas={"n1": ("animal",), "n2": ("fish",), "n3": ("tench", "Tinca tinca")},
    ...     parents={"n1": (), "n2": ("n1",), "n3": ("n2",)},
    ... )
    >>> animals.name("n3"), animals.path_distance("n1", "n3"), animals.wu_palmer("n2", "n3")
    ('tench', 2, 0.8)
    """

    def path_distance(self, first: str, second: str) -> int:
        """Return the length of the shortest path up to a common ancestor and down again.

        R. Rada et al., "Development and application of a metric on semantic nets", IEEE Trans.
        SMC 19 (1989). It is no metric where synsets have several parents: something that is both a
        vegetable and a fruit is close to both, although vegetables need not be close to fruits.

        Raises:
            ArgumentError: If a wnid is unknown or the two have no common ancestor.
        """
        of_first, of_second = self.ancestors(first), self.ancestors(second)
        common = _common(first, second, of_first, of_second)
        return min(of_first[c] + of_second[c] for c in common)

    def wu_palmer(self, first: str, second: str) -> float:
        """Return the similarity 2D / (2D + e₁ + e₂), in (0, 1], and 1 for a synset and itself.

        c is the common ancestor with the greatest `max_depth`, so no other common ancestor is below
        it; among several, c is the one with the greatest similarity. D = `max_depth`(c) + 1, which
        counts the root as a node. e₁ and e₂ are the fewest edges from the two synsets up to c.

        NLTK has the same D, but takes the c with the greatest `min_depth`, which need not be the
        lowest: 107 of ILSVRC's classes then have a similarity below 1 with themselves. Its e may
        also go up past c and down again. About 5 % of the pairs of classes differ for these
        reasons.

        Z. Wu, M. Palmer, "Verb semantics and lexical selection", ACL 1994.

        Raises:
            ArgumentError: If a wnid is unknown or the two have no common ancestor.
        """
        of_first, of_second = self.ancestors(first), self.ancestors(second)
        common = _common(first, second, of_first, of_second)
        deepest = max(self.max_depth(c) for c in common)
        similarities = []
        for c in common:
            if self.max_depth(c) == deepest:
                twice = 2 * (deepest + 1)
                similarities.append(twice / (twice + of_first[c] + of_second[c]))
        return max(similarities)

    def distance_matrix(self, wnids: Sequence[str], kind: DistanceKind = "path") -> Tensor:
        """Return the symmetric (C, C) distances in float64, 0 on the diagonal.

        Args:
            wnids: C synsets; one may come twice.
            kind: "path": `path_distance`; "wu-palmer": 1 − `wu_palmer`.

        Raises:
            ArgumentError: If a wnid is unknown, two have no common ancestor, or on another kind.
        """
        import torch

        if kind not in ("path", "wu-palmer"):
            raise ArgumentError(f"kind={kind!r} must be 'path' or 'wu-palmer'")
        above = [self.ancestors(wnid) for wnid in wnids]
        column = {c: i for i, c in enumerate(dict.fromkeys(c for one in above for c in one))}
        edges = torch.full((len(above), len(column)), torch.inf, dtype=torch.float64)
        for row, one in enumerate(above):
            edges[row, [column[c] for c in one]] = torch.tensor(list(one.values())).double()
        depths = torch.tensor([self.max_depth(c) for c in column], dtype=torch.float64)
        distances = torch.zeros(len(above), len(above), dtype=torch.float64)
        for row, one in enumerate(above):
            mine = [column[c] for c in one]
            through = edges[row, mine] + edges[:, mine]  # inf where it is not above the other
            lost = through.amin(1).isinf().nonzero()
            if len(lost):
                raise ArgumentError(_unrelated(wnids[row], wnids[int(lost[0])]))
            if kind == "path":
                distances[row] = through.amin(1)
            else:
                depth = depths[mine].where(through.isfinite(), -1.0)
                lowest = depth == depth.amax(1, keepdim=True)
                similarity = 2 * (depth + 1) / (2 * (depth + 1) + through)
                distances[row] = 1 - similarity.where(lowest, 0.0).amax(1)
        return distances

    def superclass(self, wnid: str, among: Sequence[str]) -> str | None:
        """Return the most specific of some synsets that is above a synset, or equals it.

        It is the one with the greatest `max_depth`. The nearest one would be wrong: a greyhound is
        a racer, and so an animal, by fewer edges than it is a dog.

        Args:
            wnid: The synset.
            among: wnids to choose from, such as `wordnet.SUPERCLASSES`; among equally deep ones,
                the first is taken.

        Returns:
            None if none of them is above it.

        Raises:
            ArgumentError: If a wnid is unknown.
        """
        above = self.ancestors(wnid)
        depths = {c: self.max_depth(c) for c in among}
        return max((c for c in depths if c in above), key=depths.__getitem__, default=None)

    def above(self, wnids: Sequence[str]) -> Hierarchy:
        """Return the hierarchy of these synsets, as its classes, and all their ancestors.

        Raises:
            ArgumentError: If a wnid is unknown.
            DataError: If one comes twice.
        """
        kept = sorted({c for wnid in wnids for c in self.ancestors(wnid)})
        return Hierarchy(
            lemmas={c: self.lemmas[c] for c in kept},
            parents={c: self.parents[c] for c in kept},
            classes=tuple(wnids),
        )


def _common(
    first: str, second: str, of_first: dict[str, int], of_second: dict[str, int]
) -> list[str]:
    """Return the common ancestors; there must be some."""
    common = [c for c in of_first if c in of_second]
    if not common:
        raise ArgumentError(_unrelated(first, second))
    return common


def _unrelated(first: str, second: str) -> str:
    return f"{first} and {second} have no common ancestor; a distance needs one"
