"""Which photos and which indices are drawn where all would be too many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from jvpsvd.data import Sample
from jvpsvd.report.values import Array
from jvpsvd.survey.spec.selection import rank_by_hash

_FIRST = 8


def choose_indices(k: int, count: int) -> Array:
    """Return at most `count` of the indices 1…k, rising: the first ones, then evenly to the last.

    >>> choose_indices(500, 12).tolist()
    [1, 2, 3, 4, 5, 6, 7, 8, 131, 254, 377, 500]
    >>> choose_indices(3, 12).tolist()
    [1, 2, 3]
    """
    if k <= count:
        return np.arange(1, k + 1)
    first = min(_FIRST, count - 1)
    spread = np.linspace(first, k, count - first + 1).round().astype(np.int64)
    return np.unique(np.concatenate([np.arange(1, first + 1), spread]))


def choose_photos(
    photos: Sequence[int], samples: Sequence[Sample], classes: Sequence[Hashable], count: int
) -> list[int]:
    """Return at most `count` indices of photos, rising, spread over the classes.

    One of each class is taken, then a second, and so on. Within a class the photos rank by hash, so
    that neither file order nor values decide, and equal calls return equal photos.

    Args:
        photos: Indices in the manifest to choose from.
        samples: The manifest.
        classes: Class of each sample of it.
        count: How many.

    Example: ``choose_photos(range(len(samples)), samples, labels, 100)``.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index in sorted(photos, key=lambda index: rank_by_hash(samples[index])):
        members[classes[index]].append(index)
    turns = [(turn, index) for one in members.values() for turn, index in enumerate(one)]
    turns.sort(key=lambda pair: (pair[0], rank_by_hash(samples[pair[1]])))
    return sorted(index for _, index in turns[:count])
