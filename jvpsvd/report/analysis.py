"""All that a report shows of a run, computed once: estimates, classes and class trees."""

from __future__ import annotations

from dataclasses import dataclass

from jvpsvd.report.class_trees import ClassTrees, make_class_trees
from jvpsvd.report.classes import Classes, ClassMeans, average_classes, find_classes
from jvpsvd.report.decay import Decay, fit_decay
from jvpsvd.report.estimates import Estimates, estimate
from jvpsvd.report.values import DepthValues, RunValues


@dataclass(frozen=True)
class DepthAnalysis:
    """One depth."""

    values: DepthValues
    estimates: Estimates
    """Dimensions of every photo."""
    classes: ClassMeans
    """Means over the photos of each class."""
    decay: Decay
    """How the values fall."""


@dataclass(frozen=True)
class Analysis:
    """A run, its depths and its classes."""

    run: RunValues
    depths: tuple[DepthAnalysis, ...]
    classes: Classes
    trees: ClassTrees | None
    """Trees of the classes, by spectra and by WordNet; None where there can be none."""
    without_trees: str
    """Why there are no trees where classes have wnids; empty if there are, or few classes do."""
    threshold: float
    """What a value must reach to be counted."""

    @property
    def deepest(self) -> int:
        """Index of the last depth that has values; 0 if none has."""
        return max((i for i, one in enumerate(self.depths) if len(one.values.photo)), default=0)


def analyse(run: RunValues, threshold: float = 1.0) -> Analysis:
    """Return the analysis of a run, with counts of values ≥ threshold.

    Example: ``analyse(read_values(store)).depths[-1].estimates.values["count"].mean()``.
    """
    classes = find_classes(run.samples)
    depths = []
    for values in run.depths:
        estimates = estimate(values, run.store.identity.tol, threshold)
        means = average_classes(values, classes, estimates)
        decay = fit_decay(values, run.store.identity.tol)
        depths.append(DepthAnalysis(values, estimates, means, decay))
    trees, reason = make_class_trees(run)
    return Analysis(run, tuple(depths), classes, trees, reason, threshold)
