"""The tables of the page, as text and numbers to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jvpsvd.report.analysis import Analysis, DepthAnalysis
from jvpsvd.report.classes import COLUMNS, ClassMeans
from jvpsvd.report.decay import SHARES
from jvpsvd.report.estimates import BOUNDED, ESTIMATES, Estimates, in_words, titles
from jvpsvd.report.health import DepthHealth, Health
from jvpsvd.report.values import Array, DepthValues, RunValues, mean_of_known
from jvpsvd.text_table import significant

_WIDE = 0.2  # bounds of a class that differ by more than this share are shown in place of the mean
_PERCENT, _POWER = ("energy",), ("residual", "defined")
_TRUST_TITLES = ["residual", "J defined to", "missed", "σ < r"]


def depth_titles(k: int | None, threshold: float, noun: str = "photos") -> list[str]:
    """Return the headings of the table of depths; k is None if depths differ in it."""
    return ["depth", "m × n", noun, *_value_titles(k, threshold)]


def health_titles() -> list[str]:
    """Return the headings of the table of what was computed, and how well."""
    counts = ["certified", "short", "failed", "missing"]
    return ["depth", "module", *counts, *_TRUST_TITLES, "products", "seconds"]


def decay_titles(k: int) -> list[str]:
    """Return the headings of the table of decay."""
    shares = [f"{100 * share:.0f} % of energy by i" for share in SHARES]
    return ["depth", "α (power law)", "R²", "τ (exponential)", "R² of it", *shares, f"σ1 / σ{k}"]


def class_titles(k: int | None, threshold: float, noun: str = "photos") -> list[str]:
    """Return the headings of the table of classes; k is None if depths differ in it."""
    return ["class", noun, *_value_titles(k, threshold), *_TRUST_TITLES]


def _value_titles(k: int | None, threshold: float) -> list[str]:
    estimates = list(titles(threshold).values())
    last = "σk" if k is None else f"σ{k}"
    return ["σ1", last, *estimates, "energy"]


def depth_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the rows of the table of depths."""
    return [
        {
            "name": depth.values.layer,
            "cells": _depth_cells(depth.values, depth.estimates, analysis.run.k),
        }
        for depth in analysis.depths
    ]


def health_rows(analysis: Analysis, health: Health) -> list[dict[str, Any]]:
    """Return the rows of the table of what was computed, and how well."""
    return [
        {"name": depth.values.layer, "cells": _health_cells(depth.values, counted)}
        for depth, counted in zip(analysis.depths, health.depths, strict=True)
    ]


def decay_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the rows of the table of decay."""
    return [{"name": depth.values.layer, "cells": _decay_cells(depth)} for depth in analysis.depths]


def class_rows(analysis: Analysis, shown: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of the table of classes at the last depth that has values.

    A run whose photos have no class has none.
    """
    means, classes = analysis.depths[analysis.deepest].classes, analysis.classes
    if classes.keys == ((None, None),):
        return []
    return [
        {
            "name": classes.names[index],
            "id": classes.keys[index][1] or "",
            "cells": [
                _cell(float(means.photos[index])),
                *(_class_cell(means, name, index) for name in COLUMNS),
            ],
        }
        for index in shown
    ]


def unsolved_rows(run: RunValues) -> list[dict[str, str]]:
    """Return the rows of the table of what failed or is missing."""
    return [
        {
            "key": run.samples[one.photo].key,
            "shard": run.samples[one.photo].shard,
            "layer": one.layer,
            "status": one.status,
            "message": one.message,
        }
        for one in run.unsolved
    ]


def number(value: float) -> str:
    """Return a number in four digits, as the page's script writes them.

    >>> number(12345.6), number(0.25), number(float("nan"))
    ('12350', '0.25', '—')
    """
    return f"{float(f'{value:.4g}'):.12g}" if math.isfinite(value) else "—"


def _depth_cells(depth: DepthValues, found: Estimates, k: int) -> list[dict[str, Any]]:
    count, taken = len(depth.photo), depth.s.shape[1]
    fewer = f", k = {taken}" if taken < k else ""
    cells: list[dict[str, Any]] = [
        {
            "text": f"{depth.shape[0]} × {depth.shape[1]}{fewer}",
            "value": depth.shape[0],
            "order": True,
        },
        {"text": str(count), "value": count},
    ]
    means = [depth.s[:, 0].mean(), depth.s[:, -1].mean()] if count else [math.nan, math.nan]
    cells += [_cell(mean) for mean in means]
    for name in ESTIMATES:
        mean = found.mean(name)
        words = in_words(mean, at_least=found.bounds(name))
        cells.append({**_cell(mean.value), "text": words})
    return [*cells, _cell(mean_of_known(depth.energy), "energy")]


def _health_cells(depth: DepthValues, counted: DepthHealth) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = [{"text": depth.kind, "value": None, "text_like": True}]
    counts = (counted.certified, counted.short, counted.failed, counted.missing)
    cells += [{"text": str(count), "value": count} for count in counts]
    worst = depth.relative[depth.relative >= 0]
    cells.append(_cell(float(worst.max()) if len(worst) else math.nan, "residual"))
    cells.append(_cell(float(np.fmax.reduce(depth.defined_to, initial=np.nan)), "defined"))
    some = bool(len(depth.photo))
    missed = float((depth.s.shape[1] - depth.converged).sum()) if some else math.nan
    below = float(depth.below_residual.sum()) if some else math.nan
    cells += [_cell(missed), _cell(below)]
    return [*cells, _cell(mean_of_known(depth.products)), _cell(mean_of_known(depth.seconds))]


def _decay_cells(depth: DepthAnalysis) -> list[dict[str, Any]]:
    decay, s = depth.decay, depth.values.s
    cells = [
        _moments_cell(decay.power),
        _cell(mean_of_known(decay.power_fit), "fit"),
        _moments_cell(decay.length),
        _cell(mean_of_known(decay.length_fit), "fit"),
    ]
    for share in SHARES:
        reached = decay.reaches(share)
        k = len(decay.energy)
        known = not math.isnan(decay.energy[-1])
        beyond = {"text": f"> {k}" if known else "—", "value": None}
        cells.append(beyond if reached is None else _cell(float(reached)))
    return [*cells, _ratio_cell(s, depth.values.residuals)]


def _ratio_cell(s: Array, residuals: Array) -> dict[str, Any]:
    """Return a cell of the mean σ1 / σk; "> X" where σk is below its residual for some photo."""
    last, error = s[:, -1], residuals[:, -1]
    below = last < error
    bound = np.where(below, last + error, last)
    positive = bound > 0
    if not positive.any():
        return _cell(math.nan)
    cell = _cell(float((s[positive, 0] / bound[positive]).mean()))
    return {**cell, "text": f"> {cell['text']}"} if below[positive].any() else cell


def _moments_cell(values: Array) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    if not len(known):
        return _cell(math.nan)
    mean, spread = float(known.mean()), float(known.std())
    return {**_cell(mean), "text": f"{significant(mean, 3)} ± {significant(spread, 2)}"}


def _class_cell(means: ClassMeans, name: str, index: int) -> dict[str, Any]:
    """Return a cell; of an estimate that its bounds do not resolve, the bounds, as page.js does."""
    cell = _cell(float(means.numbers[name][index]), name)
    if name in BOUNDED and cell["value"] is not None:
        least, most = (float(means.numbers[f"{name}_{end}"][index]) for end in ("least", "most"))
        if math.isinf(most):
            cell["text"] = f"≥ {cell['text']}"
        elif most - least > _WIDE * means.numbers[name][index]:
            cell["text"] = f"{number(least)} to {number(most)}"
    return cell


def _cell(value: float, name: str = "") -> dict[str, Any]:
    if not math.isfinite(value):
        return {"text": "—", "value": None}
    text = number(value)
    if name in _PERCENT:
        text = f"{100 * value:.0f} %"
    elif name in _POWER:
        text = f"{value:.0e}"
    elif name == "fit":
        text = f"{value:.3f}"
    return {"text": text, "value": f"{value:.7g}"}
