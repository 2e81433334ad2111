"""The tree that spectra make of the classes, against WordNet's, depth by depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from jvpsvd.data.hierarchy import Hierarchy
from jvpsvd.data.wordnet import SUPERCLASSES, ilsvrc_hierarchy
from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import (
    AverageTree,
    MantelTest,
    average_tree,
    class_means,
    log_spectra,
    mantel,
    row_distances,
)
from jvpsvd.report.choice import choose_photos
from jvpsvd.report.classes import Classes
from jvpsvd.report.values import Array, DepthValues, RunValues

MAX_CLASSES = 60
"""A tree of more could not be read; so many are chosen then."""
_PERMUTATIONS = 999


@dataclass(frozen=True)
class Branches:
    """A tree as lines to draw: height along x, leaves 0, 1, … along y."""

    x: Array
    """(C − 1, 4) heights of the merges, over the largest."""
    y: Array
    """(C − 1, 4)."""
    order: tuple[int, ...]
    """Class at each leaf."""


@dataclass(frozen=True)
class DepthTree:
    """The tree by spectra at one depth."""

    layer: str
    branches: Branches
    test: MantelTest | None
    """Spearman's correlation of the distances with WordNet's; None where either does not vary."""


@dataclass(frozen=True)
class ClassTrees:
    """Trees over the same classes."""

    names: tuple[str, ...]
    """Names of the classes, in the order in which branches number them."""
    groups: tuple[str, ...]
    """Superclass of each, such as bird or vehicle."""
    total: int
    """Classes that could have been taken."""
    wordnet: Branches
    depths: tuple[DepthTree, ...]


def make_class_trees(run: RunValues, classes: Classes) -> ClassTrees | str:
    """Return the trees, or why there are none, in a sentence.

    Log spectra of photos are averaged class by class; the distance of two classes is the root
    mean square of the differences, and the tree is that of average linkage.

    Example: ``make_class_trees(run, find_classes(run.samples))``.
    """
    hierarchy = ilsvrc_hierarchy()
    usable = [depth for depth in run.depths if len(depth.photo)]
    solved = [
        {classes.of[photo] for photo, top in zip(depth.photo, depth.s[:, 0], strict=True) if top}
        for depth in usable
    ]
    chosen = [
        index
        for index, (_, wnid) in enumerate(classes.keys)
        if wnid in hierarchy and all(index in one for one in solved)
    ]
    total = len(chosen)
    if not usable or total < 3:
        return (
            f"{total} classes have a wnid of ILSVRC and values at every depth; a tree needs three. "
            'Shards carry wnids in KEY.json, as {"wnid": "n01440764"}.'
        )
    if total > MAX_CLASSES:
        chosen = _choose_some(chosen, run, classes)
    wnids = [str(classes.keys[index][1]) for index in chosen]
    try:
        meaning = hierarchy.distance_matrix(wnids)
        wordnet = average_tree(meaning)
        floor = run.store.identity.tol
        trees = tuple(_make_tree(depth, classes, chosen, meaning, floor) for depth in usable)
    except ArgumentError as error:
        return f"No tree can be made: {error}."
    return ClassTrees(
        names=tuple(classes.names[index] for index in chosen),
        groups=tuple(_find_group(hierarchy, wnid) for wnid in wnids),
        total=total,
        wordnet=_lay_out(wordnet),
        depths=trees,
    )


def _choose_some(candidates: list[int], run: RunValues, classes: Classes) -> list[int]:
    keep = set(candidates)
    photos = [photo for photo, one in enumerate(classes.of) if one in keep]
    chosen = choose_photos(photos, run.samples, classes.of, MAX_CLASSES)
    return sorted({classes.of[photo] for photo in chosen})


def _make_tree(
    depth: DepthValues, classes: Classes, chosen: list[int], meaning: torch.Tensor, floor: float
) -> DepthTree:
    of = np.array(classes.of)[depth.photo]
    rows = np.isin(of, chosen) & (depth.s[:, 0] > 0)
    logs = log_spectra(depth.s[rows], floor=floor)
    means = class_means(logs, of[rows].tolist())
    index = {label: number for number, label in enumerate(means.classes)}
    distances = row_distances(means.means[[index[one] for one in chosen]])
    test: MantelTest | None
    try:
        test = mantel(distances, meaning, permutations=_PERMUTATIONS)
    except ArgumentError:
        test = None
    if test is not None and not math.isfinite(test.correlation):
        test = None
    return DepthTree(depth.layer, _lay_out(average_tree(distances)), test)


def _lay_out(tree: AverageTree) -> Branches:
    from scipy.cluster import hierarchy

    drawn = hierarchy.dendrogram(tree.linkage, no_plot=True)
    x = np.array(drawn["dcoord"], dtype=np.float64)
    y = (np.array(drawn["icoord"], dtype=np.float64) - 5.0) / 10.0
    return Branches(x / x.max(), y, tuple(int(leaf) for leaf in drawn["leaves"]))


def _find_group(hierarchy: Hierarchy, wnid: str) -> str:
    above = hierarchy.superclass(wnid, [c for c in SUPERCLASSES if c in hierarchy])
    return hierarchy.name(above) if above else "other"
