"""Distances between the classes of a run by spectra, depth by depth, against those of WordNet."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from jvpsvd.arguments import whole_number
from jvpsvd.data.wordnet import SUPERCLASSES, ilsvrc_hierarchy
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    Interval,
    MantelTest,
    NearestClass,
    bootstrap_interval,
    class_means,
    log_spectra,
    mantel,
    matrix_correlation,
    nearest_class,
    row_distances,
)
from jvpsvd.records import ComparedByFields

Array = np.ndarray[Any, np.dtype[Any]]
_Found = TypeVar("_Found")
_PERMUTATIONS, _RESAMPLES, _SHUFFLES = 999, 999, 20
_NEAREST_PERMUTATIONS = 99  # each costs as much as a thousand of the others


@dataclass(frozen=True, eq=False)
class ClassDistances(ComparedByFields):
    """Classes at one depth.

    Example: ``survey.open("run").classes().depths[-1].test``.
    """

    layer: str
    distances: Tensor
    """(C, C) root mean square differences of mean log spectra, in nats."""
    test: MantelTest | None
    """Spearman's correlation with WordNet's distances; None where either does not vary."""
    interval: Interval | None
    """Its 95 % interval over resampled classes."""
    shuffled: tuple[float, float]
    """Mean and deviation of the correlation where photos have random labels: the control."""
    nearest: NearestClass | None
    """How often a photo is nearest to its own class; None where a class has one photo."""


@dataclass(frozen=True, eq=False, repr=False)
class ClassComparison(ComparedByFields):
    """The classes of a run that have a wnid of ILSVRC and values at every depth."""

    wnids: tuple[str, ...]
    names: tuple[str, ...]
    """In words; they differ from each other."""
    superclasses: tuple[str, ...]
    """Superclass of each, such as bird or vehicle."""
    wordnet: Tensor
    """(C, C) path distances in WordNet."""
    depths: tuple[ClassDistances, ...]
    total: int
    """Classes that could have been taken."""

    def __repr__(self) -> str:
        told = ", ".join(
            f"{depth.layer}: {depth.test.correlation:.3f} (p = {depth.test.p_value:.2g})"
            for depth in self.depths
            if depth.test is not None
        )
        return f"<{len(self.wnids)} classes, correlation with WordNet at {told or 'no depth'}>"


@dataclass(frozen=True)
class LabelledSpectra:
    """What `compare_classes` takes of a depth."""

    layer: str
    wnids: Sequence[str | None]
    """Of each photo with values."""
    s: Array
    """(photos, k)."""


def compare_classes(
    depths: Sequence[LabelledSpectra], floor: float, at_most: int | None = None
) -> ClassComparison:
    """Compare classes by spectra with their meanings.

    Log spectra of photos are averaged class by class; the distance of two classes is the root mean
    square of the differences. See `jvpsvd.geometry`: `mantel`, `bootstrap_interval`,
    `nearest_class`.

    Args:
        depths: Those with values.
        floor: What values are good to, over σ₁: the tolerance of the run.
        at_most: Classes to take, chosen by a hash of their wnids; None: all.

    Raises:
        ArgumentError: If fewer than three classes have a wnid of ILSVRC and values at every depth,
            or cannot be told apart.
    """
    if at_most is not None:
        whole_number("at_most", at_most, 3)
    hierarchy = ilsvrc_hierarchy()
    solved = [
        {wnid for wnid, top in zip(depth.wnids, depth.s[:, 0], strict=True) if wnid and top}
        for depth in depths
    ]
    common = set.intersection(*solved) if solved else set()
    usable = sorted(wnid for wnid in common if wnid in hierarchy)
    if len(usable) < 3:
        raise ArgumentError(
            f"{len(usable)} classes have a wnid of ILSVRC and values at every depth; give three. "
            'Shards carry wnids in KEY.json, as {"wnid": "n01440764"}'
        )
    wnids = sorted(sorted(usable, key=_hash)[:at_most])
    wordnet = hierarchy.distance_matrix(wnids)
    above = [c for c in SUPERCLASSES if c in hierarchy]
    short = [hierarchy.name(wnid) for wnid in wnids]
    return ClassComparison(
        wnids=tuple(wnids),
        names=tuple(
            f"{name} ({wnid})" if short.count(name) > 1 else name
            for wnid, name in zip(wnids, short, strict=True)
        ),
        superclasses=tuple(
            hierarchy.name(found) if (found := hierarchy.superclass(wnid, above)) else "other"
            for wnid in wnids
        ),
        wordnet=wordnet,
        depths=tuple(_compare(depth, wnids, wordnet, floor) for depth in depths),
        total=len(usable),
    )


def _compare(
    depth: LabelledSpectra, wnids: Sequence[str], wordnet: Tensor, floor: float
) -> ClassDistances:
    taken = set(wnids)
    rows = np.array([wnid in taken for wnid in depth.wnids]) & (depth.s[:, 0] > 0)
    labels = [str(wnid) for wnid, keep in zip(depth.wnids, rows, strict=True) if keep]
    logs = log_spectra(depth.s[rows], floor=floor)
    distances = _class_distances(logs, labels, wnids)
    test = _where_possible(lambda: mantel(distances, wordnet, permutations=_PERMUTATIONS))
    if test is None or not math.isfinite(test.correlation):
        return ClassDistances(depth.layer, distances, None, None, (math.nan, math.nan), None)
    generator = torch.Generator().manual_seed(0)
    shuffled = []
    for _ in range(_SHUFFLES):
        order = torch.randperm(len(labels), generator=generator)
        mixed = _class_distances(logs[order], labels, wnids)
        shuffled.append(_where_possible(partial(matrix_correlation, mixed, wordnet)))
    known = [one for one in shuffled if one is not None]
    return ClassDistances(
        layer=depth.layer,
        distances=distances,
        test=test,
        interval=_where_possible(
            lambda: bootstrap_interval(distances, wordnet, resamples=_RESAMPLES)
        ),
        shuffled=(float(np.mean(known)), float(np.std(known))) if known else (math.nan, math.nan),
        nearest=_where_possible(
            lambda: nearest_class(logs, labels, permutations=_NEAREST_PERMUTATIONS)
        ),
    )


def _class_distances(rows: Tensor, labels: Sequence[str], order: Sequence[str]) -> Tensor:
    means = class_means(rows, labels)
    index = {label: number for number, label in enumerate(means.classes)}
    return row_distances(means.means[[index[label] for label in order]])


def _where_possible(compute: Callable[[], _Found]) -> _Found | None:
    """Return what is computed; None where numbers do not vary, or are too few."""
    try:
        return compute()
    except ArgumentError:
        return None


def _hash(wnid: str) -> str:
    return hashlib.sha256(wnid.encode()).hexdigest()
