"""The tree that spectra make of the classes, against WordNet's, depth by depth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.geometry import AverageTree, average_tree
from jvpsvd.report.values import Array, RunValues
from jvpsvd.survey.store.class_distances import ClassComparison, LabelledSpectra, compare_classes

MAX_CLASSES = 60
"""A tree of more could not be read; so many are chosen then."""
_LEAST_CLASSES = 3  # which `compare_classes` needs


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
class ClassTrees:
    """Distances of classes, and trees over them."""

    compared: ClassComparison
    wordnet: Branches
    depths: tuple[Branches, ...]
    """Those by spectra, in the order of `compared.depths`."""


def make_class_trees(run: RunValues) -> tuple[ClassTrees | None, str]:
    """Return the trees, or None and why there can be none.

    No reason is given for a run of fewer than three wnids, where nobody expects a tree.

    Example: ``make_class_trees(run)[0].compared.depths[-1].test.correlation``.
    """
    if len({sample.wnid for sample in run.samples if sample.wnid}) < _LEAST_CLASSES:
        return None, ""
    depths = [
        LabelledSpectra(depth.layer, [run.samples[photo].wnid for photo in depth.photo], depth.s)
        for depth in run.depths
        if len(depth.photo)
    ]
    try:
        compared = compare_classes(depths, run.store.identity.tol, MAX_CLASSES)
        return ClassTrees(
            compared,
            _lay_out(average_tree(compared.wordnet)),
            tuple(_lay_out(average_tree(depth.distances)) for depth in compared.depths),
        ), ""
    except ArgumentError as error:
        return None, f"the tree of the classes: {error}"


def _lay_out(tree: AverageTree) -> Branches:
    from scipy.cluster import hierarchy

    drawn = hierarchy.dendrogram(tree.linkage, no_plot=True)
    x = np.array(drawn["dcoord"], dtype=np.float64)
    y = (np.array(drawn["icoord"], dtype=np.float64) - 5.0) / 10.0
    return Branches(x / x.max(), y, tuple(int(leaf) for leaf in drawn["leaves"]))
