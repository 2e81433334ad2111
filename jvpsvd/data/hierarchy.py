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
    >>> animals.name("n3"), animals.distance_matrix(["n1", "n3"])[0, 1]
    ('tench', tensor(2., dtype=torch.float64))
    """

    def distance_matrix(self, wnids: Sequence[str], kind: DistanceKind = "path") -> Tensor:
        """Return the symmetric (C, C) distances in float64, 0 on the diagonal.

        "path" is the length of the shortest path up to a common ancestor and down again (R. Rada et
        al., "Development and application of a metric on semantic nets", IEEE Trans. SMC 19, 1989).
        It is no metric where synsets have several parents: something that is both a vegetable and a
        fruit is close to both, although vegetables need not be close to fruits.

        "wu-palmer" is 1 − 2D / (2D + e₁ + e₂) (Z. Wu, M. Palmer, "Verb semantics and lexical
        selection", ACL 1994). c is the common ancestor with the greatest `max_depth`, so no other
        common ancestor is below it; among several, c is the one that brings the two nearest. D =
        `max_depth`(c) + 1, which counts the root as a node. e₁ and e₂ are the fewest edges from the
        two synsets up to c. NLTK has the same D, but takes the c with the greatest least depth,
        which need not be the lowest: 107 of ILSVRC's classes then have a distance from themselves.
        Its e may also go up past c and down again. About 5 % of the pairs of classes differ for
        these reasons.

        Args:
            wnids: C synsets; one may come twice.
            kind: "path" or "wu-palmer".

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


def _unrelated(first: str, second: str) -> str:
    return f"{first} and {second} have no common ancestor; a distance needs one"
