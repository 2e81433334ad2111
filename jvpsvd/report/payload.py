"""What the page's figures are drawn from: numbers packed small, text that cannot leave its script.

Per-photo lines and class curves are cut down to a fixed number of values, whatever the run's size;
what is left out is counted, so that the page can say it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jvpsvd.plot import style
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.choice import choose_indices, choose_photos
from jvpsvd.report.class_trees import Branches, ClassTrees
from jvpsvd.report.classes import COLUMNS, RANGE_COLUMNS, Classes
from jvpsvd.report.estimates import ESTIMATES, outer_range, titles
from jvpsvd.report.sentences import noun_of
from jvpsvd.report.summary import WIDE, mean_counts, outer_bounds, rest_of
from jvpsvd.report.values import Array, DepthValues
from jvpsvd.survey.store.whole_spectrum import THRESHOLDS

MAX_CLASSES = 2000
_MEAN_INDICES, _LINE_INDICES = 200, 40
_MIN_INDICES, _MAX_INDICES = 12, 48
_MIN_THRESHOLDS = 6
_LINE_VALUES, _CLASS_VALUES = 250_000, 200_000
_MAX_PHOTOS = 1000


@dataclass(frozen=True)
class Payload:
    """What goes into the page as JSON, and what of the run it holds."""

    record: dict[str, Any]
    classes: tuple[int, ...]
    """Classes that can be chosen."""
    drawn: tuple[int, ...]
    """Photos that have lines."""


def make_payload(analysis: Analysis) -> Payload:
    """Return the numbers of all interactive figures.

    Example: ``embedded(make_payload(analyse(run)).record)``.
    """
    run, classes, trees = analysis.run, analysis.classes, analysis.trees
    depths, k = run.depths, run.k
    means = [depth.classes for depth in analysis.depths]
    estimates = [depth.estimates for depth in analysis.depths]
    shown = _choose_classes(classes, len(depths))
    listed = np.array(shown)
    per_curve = _CLASS_VALUES // max(1, len(shown) * len(depths))
    curve = choose_indices(k, max(_MIN_INDICES, min(_MAX_INDICES, per_curve)))
    line, full = choose_indices(k, _LINE_INDICES), choose_indices(k, _MEAN_INDICES)
    count = min(_MAX_PHOTOS, max(1, _LINE_VALUES // (len(line) * len(depths))))
    solved = sorted({int(photo) for depth in depths for photo in depth.photo})
    drawn = choose_photos(solved, run.samples, classes.of, count)
    position = {number: index for index, number in enumerate(shown)}
    record = {
        "k": k,
        "noun": noun_of(run),
        "dashes": style.DASHES,
        "heat": style.CIVIDIS,
        "depths": [_describe(depth) for depth in depths],
        "full": full.tolist(),
        "mean": [pack(_pad(_mean(depth), k)[full - 1]) for depth in depths],
        "deviation": [pack(_pad(_deviation(depth), k)[full - 1]) for depth in depths],
        "energy": [pack(_pad(one.decay.energy, k)[full - 1]) for one in analysis.depths],
        "classes": [classes.names[number] for number in shown],
        "curve": curve.tolist(),
        "classPhotos": [one.photos[listed].tolist() for one in means],
        "classMean": [
            pack(_pad(_drawn(one.mean, one.resolved)[listed], k)[:, curve - 1]) for one in means
        ],
        "classDeviation": [pack(_pad(one.deviation[listed], k)[:, curve - 1]) for one in means],
        "columns": list(COLUMNS),
        "cells": [
            pack(np.stack([one.numbers[name][listed] for name in COLUMNS], axis=1)) for one in means
        ],
        "line": line.tolist(),
        "photos": [[run.samples[p].key, position.get(classes.of[p], -1)] for p in drawn],
        "lines": [pack(_lines(_pad(depth.s, k), depth, drawn, line)) for depth in depths],
        "residuals": [
            pack(_lines(_pad(depth.residuals, k), depth, drawn, line)) for depth in depths
        ],
        "estimates": [[name, title] for name, title in titles(analysis.threshold).items()],
        "dimensions": [
            [
                [
                    *_moments(one.values[name]),
                    *_finite(*outer_range(one.mean(name))),
                    int(one.bounds(name)),
                ]
                for name in ESTIMATES
            ]
            for one in estimates
        ],
        "classRanges": [
            pack(np.stack([one.numbers[name][listed] for name in RANGE_COLUMNS], axis=1))
            for one in means
        ],
        "threshold": analysis.threshold,
        "wide": WIDE,
        "rest": [_rest(depth, np.array(classes.of), shown, len(depths)) for depth in depths],
        "trees": None if trees is None else _trees(trees),
    }
    return Payload(record, tuple(shown), tuple(drawn))


def pack(values: Array) -> str:
    """Return numbers as float32 in base64, which a browser reads far faster than decimals.

    >>> pack(np.array([1.0, 0.5]))
    'AACAPwAAAD8='
    """
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode("ascii")


def embedded(record: Any) -> str:
    r"""Return JSON that may stand in a script element: nothing in it ends the element.

    >>> embedded({"class": "</script><script>"})
    '{"class":"\\u003c/script\\u003e\\u003cscript\\u003e"}'
    """
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _choose_classes(classes: Classes, depths: int) -> list[int]:
    """Return the classes that can be chosen: of too many, those with most photos."""
    count = min(MAX_CLASSES, max(1, 2 * _CLASS_VALUES // (_MIN_INDICES * depths)))
    sizes = np.bincount(np.array(classes.of, dtype=np.int64), minlength=len(classes))
    return sorted(np.argsort(-sizes, kind="stable")[:count].tolist())


def _describe(depth: DepthValues) -> dict[str, Any]:
    return {
        "name": depth.layer,
        "photos": len(depth.photo),
        "rows": depth.shape[0],
        "size": depth.size,
    }


def _pad(values: Array, k: int) -> Array:
    """Return values with NaN for the indices up to k that a depth has not."""
    missing = [(0, 0)] * (values.ndim - 1) + [(0, k - values.shape[-1])]
    padded: Array = np.pad(values, missing, constant_values=np.nan)
    return padded


def _mean(depth: DepthValues) -> Array:
    empty: Array = np.full(depth.s.shape[1], np.nan)
    return _drawn(depth.s.mean(axis=0), np.array(depth.resolved)) if len(depth.s) else empty


def _drawn(means: Array, resolved: Array) -> Array:
    """Return means by index with NaN from the first one below its residual on."""
    index = np.arange(1, means.shape[-1] + 1)
    found: Array = np.where(index <= np.maximum(1, resolved)[..., None], means, np.nan)
    return found


def _deviation(depth: DepthValues) -> Array:
    empty: Array = np.full(depth.s.shape[1], np.nan)
    return depth.s.std(axis=0) if len(depth.s) else empty


def _lines(values: Array, depth: DepthValues, drawn: Sequence[int], index: Array) -> Array:
    found: Array = np.full((len(drawn), len(index)), np.nan)
    position = {int(photo): number for number, photo in enumerate(depth.photo)}
    for row, photo in enumerate(drawn):
        if photo in position:
            found[row] = values[position[photo], index - 1]
    return found


def _rest(depth: DepthValues, of: Array, shown: Sequence[int], depths: int) -> Any:
    """Return thresholds below the k values, and (1 + classes, 3, thresholds) mean counts there.

    Counts are value, least and most, the bounds with two standard errors; first those of all
    photos, then those of each class. Of many classes, each has fewer thresholds.
    """
    counts = mean_counts(depth)
    rest = None if counts is None else rest_of(counts, depth.s)
    if rest is None:
        return None
    most = max(_MIN_THRESHOLDS, _CLASS_VALUES // (3 * depths * (1 + len(shown))))
    chosen = choose_indices(len(rest), most) - 1
    at = np.searchsorted(THRESHOLDS, rest.grid[chosen])
    found = np.full((1 + len(shown), 3, len(chosen)), np.nan)
    for row, number in enumerate((None, *shown)):
        mean = mean_counts(depth, None if number is None else of[depth.photo] == number)
        if mean is not None:
            numbers = (mean.value, *outer_bounds(mean))
            found[row] = [column[at].clip(0, depth.size) for column in numbers]
    return {"y": [float(f"{y:.6g}") for y in THRESHOLDS[at]], "x": pack(found)}


def _finite(*values: float) -> list[float | None]:
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def _moments(values: Array) -> list[float | None]:
    known = values[np.isfinite(values)]
    if not len(known):
        return [None, None]
    return [float(f"{moment:.5g}") for moment in (known.mean(), known.std())]


def _trees(trees: ClassTrees) -> dict[str, Any]:
    compared = trees.compared
    pairs = np.triu_indices(len(compared.wnids), 1)
    return {
        "names": list(compared.names),
        "groups": list(compared.superclasses),
        "wordnet": _branches(trees.wordnet),
        "distances": pack(compared.wordnet.numpy()[pairs]),
        "depths": {
            depth.layer: {**_branches(branches), "distances": pack(depth.distances.numpy()[pairs])}
            for depth, branches in zip(compared.depths, trees.depths, strict=True)
        },
    }


def _branches(branches: Branches) -> dict[str, Any]:
    return {
        "x": branches.x.round(4).tolist(),
        "y": branches.y.round(3).tolist(),
        "order": list(branches.order),
    }
