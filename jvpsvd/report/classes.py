"""Classes of a run: their names, and means over the photos of each at one depth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jvpsvd.data import Sample
from jvpsvd.data.wordnet import ilsvrc_hierarchy
from jvpsvd.report.estimates import BOUNDED, ESTIMATES, Estimates
from jvpsvd.report.values import Array, DepthValues, count_resolved

Key = tuple[int | None, str | None]
_Class = tuple[int | None, str | None, str | None]


@dataclass(frozen=True)
class Classes:
    """The classes that the manifest names."""

    keys: tuple[Key, ...]
    """Label and wnid of each, the same for classes of one label that shards name otherwise;
    (None, None) for photos without a class, which come last."""
    names: tuple[str, ...]
    """Names to show; they differ from each other."""
    of: tuple[int, ...]
    """Class of each sample of the manifest, as an index in `keys`."""

    def __len__(self) -> int:
        return len(self.keys)


def find_classes(samples: Sequence[Sample]) -> Classes:
    """Return the classes of a manifest: by label, then by wnid.

    A wnid of ILSVRC gives the name, or else the "class" of the shards; where two classes share
    one, label and wnid are added.

    >>> one, two = Sample("s", "a", 0, 0, 3, None), Sample("s", "b", 0, 0, 0, "n01440764")
    >>> find_classes([one, two]).names
    ('tench', 'label 3')
    >>> find_classes([Sample("s", "a", 0, 0, 0, None, class_name="circles")]).names
    ('circles',)
    """
    named = _names_of_keys(samples)

    def class_of(sample: Sample) -> _Class:
        key = sample.label, sample.wnid
        names = named.get(key, {})
        # Shards that were packed apart may count their classes from 0 each.
        apart = sample.wnid is None and len(names) > 1
        return *key, sample.class_name if apart else next(iter(names), None)

    of = [class_of(sample) for sample in samples]
    every = sorted(set(of), key=_order)
    short = [_name((label, wnid), written) for label, wnid, written in every]
    keys = [(label, wnid) for label, wnid, _ in every]
    names = [
        f"{name} ({_id(key)})" if short.count(name) > 1 else name
        for key, name in zip(keys, short, strict=True)
    ]
    index = {one: number for number, one in enumerate(every)}
    return Classes(tuple(keys), tuple(names), tuple(index[one] for one in of))


def _names_of_keys(samples: Sequence[Sample]) -> dict[Key, dict[str, None]]:
    """Return the names that shards give to the classes of each label and wnid, in their order."""
    named: dict[Key, dict[str, None]] = {}
    for sample in samples:
        if sample.class_name is not None:
            named.setdefault((sample.label, sample.wnid), {})[sample.class_name] = None
    return named


def _order(one: _Class) -> tuple[bool, bool, int, str, str]:
    label, wnid, written = one
    without_class = (label, wnid) == (None, None)
    return without_class, label is None, label or 0, wnid or "", written or ""


@dataclass(frozen=True)
class ClassMeans:
    """Means over the photos of each class at one depth; NaN where a class has no values."""

    photos: Array
    """(C,) photos with values."""
    mean: Array
    """(C, k) mean singular values."""
    deviation: Array
    """(C, k) standard deviations of them; 0 for one photo."""
    resolved: Array
    """(C,) leading indices at which the mean value is not below the mean residual."""
    numbers: dict[str, Array]
    """(C,) of each column of a class table."""


COLUMNS = ("first", "last", *ESTIMATES, "energy", "residual", "defined", "missed", "below")
"""Columns of a class table: mean σ₁ and σ_k, the estimates and the energy; how far they can be
trusted, which is the worst residual, how well J is defined at the worst photo, triplets not
certified and values below their residual."""


RANGE_COLUMNS = tuple(f"{name}_{end}" for name in BOUNDED for end in ("least", "most"))
"""Bounds of the mean of an estimate over a class, with two standard errors; most is infinite where
only a lower bound is known."""


def average_classes(depth: DepthValues, classes: Classes, estimates: Estimates) -> ClassMeans:
    """Return means over the photos of each class at a depth.

    Example: ``average_classes(depth, find_classes(samples), estimate(depth, 1e-5)).mean``.
    """
    of = np.array(classes.of, dtype=np.int64)[depth.photo]
    count = np.bincount(of, minlength=len(classes))
    mean = _means(depth.s, of, count)
    variance = _means(np.square(depth.s - mean[of]), of, count)
    worst, defined = np.full((2, len(classes)), np.nan)
    np.fmax.at(worst, of, depth.relative)
    np.fmax.at(defined, of, depth.defined_to)
    missed = np.bincount(of, weights=depth.s.shape[1] - depth.converged, minlength=len(classes))
    below = np.bincount(of, weights=depth.below_residual, minlength=len(classes))
    numbers = {
        "first": mean[:, 0],
        "last": mean[:, -1],
        **{name: _known_means(estimates.values[name], of, len(classes)) for name in ESTIMATES},
        "energy": _known_means(depth.energy, of, len(classes)),
        "residual": worst,
        "defined": defined,
        "missed": np.where(count > 0, missed, np.nan),
        "below": np.where(count > 0, below, np.nan),
        **_ranges(estimates, of, len(classes)),
    }
    resolved = count_resolved(mean, _means(depth.residuals, of, count))
    return ClassMeans(count, mean, np.sqrt(variance), resolved, numbers)


def _ranges(estimates: Estimates, of: Array, classes: int) -> dict[str, Array]:
    """Return `RANGE_COLUMNS` of each class."""
    found: dict[str, Array] = {}
    for name in BOUNDED:
        known = np.isfinite(estimates.values[name])
        numbers, members = estimates.ranges[name][:, known], of[known]
        with np.errstate(invalid="ignore"):
            photos = np.bincount(members, minlength=classes)
            low, high, error, squares = (
                np.bincount(members, weights=row, minlength=classes) / photos
                for row in (*numbers, np.square(numbers[2]))
            )
            if estimates.own_starts:  # `average_inputs` says why
                error = np.sqrt(squares / photos)
        found[f"{name}_least"], found[f"{name}_most"] = low - 2 * error, high + 2 * error
    return found


def _means(values: Array, of: Array, count: Array) -> Array:
    sums = np.zeros((len(count), values.shape[1]))
    np.add.at(sums, of, values)
    with np.errstate(invalid="ignore"):
        found: Array = sums / count[:, None]  # 0 / 0 of a class without values: NaN
    return found


def _known_means(values: Array, of: Array, classes: int) -> Array:
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sums = np.bincount(of[known], weights=values[known], minlength=classes)
        found: Array = sums / np.bincount(of[known], minlength=classes)
    return found


def _name(key: Key, written: str | None) -> str:
    """Return how a class is called: as WordNet does, or as the shards do."""
    label, wnid = key
    if wnid is not None:
        hierarchy = ilsvrc_hierarchy()
        if wnid in hierarchy:
            return hierarchy.name(wnid)
    if written is not None and written != wnid:
        return f"class {written}" if written.isdecimal() else written
    if wnid is not None:
        return wnid
    return "no class" if label is None else f"label {label}"


def _id(key: Key) -> str:
    return ", ".join(str(part) for part in key if part is not None)
