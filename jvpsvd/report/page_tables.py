"""The tables of the page, as text and numbers to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jvpsvd.report.analysis import Analysis
from jvpsvd.report.classes import COLUMNS, ClassMeans
from jvpsvd.report.estimates import BOUNDED, ESTIMATES, Estimates, in_words, titles
from jvpsvd.report.health import Health
from jvpsvd.report.values import DepthValues, RunValues, mean_of_known
from jvpsvd.survey.spec.identity import Identity
from jvpsvd.survey.store.notes import read_notes
from jvpsvd.survey.store.record import RECORD

_WIDE = 0.2  # bounds of a class that differ by more than this share are shown in place of the mean
_PERCENT, _POWER = ("energy",), ("residual", "defined")


def depth_titles(k: int | None, threshold: float) -> list[str]:
    """Return the headings of the table of depths; k is None if depths differ in it."""
    numbers = _number_titles(k, threshold)
    return ["depth", "module", "m × n", "photos", *numbers, "products", "seconds"]


def class_titles(k: int | None, threshold: float) -> list[str]:
    """Return the headings of the table of classes; k is None if depths differ in it."""
    return ["class", "wnid", "photos", *_number_titles(k, threshold)]


def _number_titles(k: int | None, threshold: float) -> list[str]:
    estimates = list(titles(threshold).values())
    last = "σk" if k is None else f"σ{k}"
    return ["σ1", last, "residual", "J defined to", "missed", "σ < r", *estimates, "energy"]


def depth_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Return the rows of the table of depths."""
    return [
        {
            "name": depth.values.layer,
            "cells": _depth_cells(depth.values, depth.estimates, analysis.run.k),
        }
        for depth in analysis.depths
    ]


def class_rows(analysis: Analysis, shown: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of the table of classes at the last depth that has values."""
    means, classes = analysis.depths[analysis.deepest].classes, analysis.classes
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


def summarize_health(health: Health) -> str:
    """Return the counts of a run in a sentence."""
    parts = [f"{health.certified} of {health.rows} rows are certified in full"]
    if health.short:
        missed = f"{health.unconverged} of {health.triplets} triplets not certified"
        parts.append(f"{health.short} have values with {missed}")
    if health.failed:
        parts.append(f"{health.failed} failed, for the reasons below")
    parts.append(f"{health.missing} are missing" if health.missing else "none is missing")
    if health.below_residual:
        parts.append(
            f"{health.below_residual} of {health.triplets} values are below their own residual, "
            "which is all that is known of their size"
        )
    return "; ".join(parts) + "."


def describe_run(run: RunValues) -> list[tuple[str, str]]:
    """Return what was computed, as names and values."""
    identity = run.store.identity
    record = read_notes(run.store.folder / RECORD)
    versions, photos = record.get("versions"), identity.photos
    chosen = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in (("per_class", photos.per_class), ("limit", photos.limit))
        if value is not None
    ]
    if photos.classes is not None:
        chosen.append(f"{len(photos.classes)} classes by name")
    listed = ", ".join(identity.shards[:5]) + (", …" if len(identity.shards) > 5 else "")
    rows = [
        ("model", identity.model),
        ("weights, SHA-256", identity.weights_sha256),
        ("input", _describe_input(identity)),
        ("shards", f"{len(identity.shards)}: {listed}"),
        ("photos chosen", "; ".join(chosen) if chosen else "all"),
        ("k", str(identity.k)),
        ("tolerance", f"{identity.tol:g} σ₁"),
        ("seed", str(identity.seed)),
        ("numbers", f"{identity.dtype}, numerics {identity.numerics}"),
        ("vectors", "stored" if identity.vectors else "not stored"),
        ("begun", str(record.get("created", "unknown"))),
    ]
    if isinstance(versions, dict):
        text = ", ".join(f"{name} {value}" for name, value in versions.items())
        rows.append(("versions", text))
    return rows


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
        {"text": depth.kind, "value": None},
        {"text": f"{depth.shape[0]} × {depth.shape[1]}{fewer}", "value": depth.shape[0]},
        {"text": str(count), "value": count},
    ]
    means = [depth.s[:, 0].mean(), depth.s[:, -1].mean()] if count else [math.nan, math.nan]
    cells += [_cell(mean) for mean in means]
    worst = depth.relative[depth.relative >= 0]
    cells.append(_cell(float(worst.max()) if len(worst) else math.nan, "residual"))
    cells.append(_cell(float(np.fmax.reduce(depth.defined_to, initial=np.nan)), "defined"))
    missed = float((depth.s.shape[1] - depth.converged).sum()) if count else math.nan
    below = float(depth.below_residual.sum()) if count else math.nan
    cells += [_cell(missed), _cell(below)]
    for name in ESTIMATES:
        mean = found.mean(name)
        words = in_words(mean, at_least=found.bounds(name))
        cells.append({**_cell(mean.value), "text": words})
    for values, name in ((depth.energy, "energy"), (depth.products, ""), (depth.seconds, "")):
        cells.append(_cell(mean_of_known(values), name))
    return cells


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
    return {"text": text, "value": f"{value:.7g}"}


def _describe_input(identity: Identity) -> str:
    if identity.start_shape is None:
        sizes = identity.photo_input
        return f"{sizes.size} × {sizes.size} pixels, {sizes.channels}"
    shape = " × ".join(map(str, identity.start_shape))
    kind, start = identity.inputs or "photos", identity.start or "the input"
    return f"{kind}, differentiated from {start}, {shape}"
