"""One page that shows a run, whole in one file: it opens from a disk and asks no network.

Plotly draws, because its JavaScript comes whole inside its Python package and needs no server, no
build and no other file; the page's own script only joins it to the controls and sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.errors import ArgumentError
from jvpsvd.report.class_trees import ClassTrees
from jvpsvd.report.classes import COLUMNS, Classes, ClassRows
from jvpsvd.report.estimates import ESTIMATES, TITLES, Estimates
from jvpsvd.report.health import Health, check
from jvpsvd.report.payload import Payload, embedded, make_payload
from jvpsvd.report.thumbnails import Browser
from jvpsvd.report.values import DepthValues, RunValues

_ASSETS = Path(__file__).with_name("assets")
_MOST_LOST = 200
_PERCENT, _POWER = ("energy",), ("residual", "defined")


def make_page(
    run: RunValues,
    classes: Classes,
    rows: Sequence[ClassRows],
    estimates: Sequence[Estimates],
    trees: ClassTrees | str,
    browser: Browser,
    files: Sequence[str] = (),
) -> str:
    """Return the page as HTML. Equal runs give equal pages.

    All text of the run is escaped, and a content security policy lets only the page's own scripts
    run and nothing be fetched.

    Args:
        run: The rows.
        classes: Of the manifest.
        rows: Means of the classes, depth by depth.
        estimates: Dimensions, depth by depth.
        trees: The class trees, or why there are none.
        browser: Thumbnails.
        files: Names of files beside the page.

    Raises:
        ArgumentError: If plotly or jinja2 is not installed.

    Example: see `jvpsvd.report.write_report`, which gathers all of this.
    """
    plotly, environment = _plotly(), _environment()
    payload = make_payload(run, classes, rows, estimates, None if isinstance(trees, str) else trees)
    markup = importlib.import_module("markupsafe").Markup
    scripts = [plotly, (_ASSETS / "page.js").read_text(encoding="utf-8")]
    lost = _lost(run)
    deepest = max((at for at, depth in enumerate(run.depths) if len(depth.photo)), default=0)
    health = check(run)
    return str(
        environment.get_template("page.html").render(
            policy=_policy(scripts),
            css=markup((_ASSETS / "page.css").read_text(encoding="utf-8")),
            scripts=[markup(script) for script in scripts],
            data=markup(embedded(payload.record)),
            identity=run.store.identity,
            spec=_spec(run),
            health=health,
            verdict=_verdict(health),
            problems=[*run.unreadable, *run.problems],
            lost=lost[:_MOST_LOST],
            lost_total=len(lost),
            depths=run.depths,
            depth_titles=_depth_titles(run.k),
            depth_rows=[
                {"name": depth.layer, "cells": _depth_cells(depth, found)}
                for depth, found in zip(run.depths, estimates, strict=True)
            ],
            drawn=len(payload.drawn),
            with_values=len({int(photo) for depth in run.depths for photo in depth.photo}),
            line_indices=len(payload.record["line"]),
            class_titles=_class_titles(run.k),
            class_rows=_class_rows(classes, rows[deepest], payload),
            class_total=len(classes),
            table_depth=run.depths[deepest].layer,
            trees=trees,
            browser=browser,
            number=number,
            files=files,
        )
    )


def number(value: float) -> str:
    """Return a number in four digits, as the page's script writes them.

    >>> number(12345.6), number(0.25), number(float("nan"))
    ('12350', '0.25', '—')
    """
    return f"{float(f'{value:.4g}'):.12g}" if math.isfinite(value) else "—"


def _plotly() -> str:
    try:
        return str(importlib.import_module("plotly.offline").get_plotlyjs())
    except ImportError as error:
        raise ArgumentError("the page needs plotly; install jvpsvd[report]") from error


def _environment() -> Any:
    try:
        jinja2 = importlib.import_module("jinja2")
    except ImportError as error:
        raise ArgumentError("the page needs jinja2; install jvpsvd[report]") from error
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS), autoescape=True, undefined=jinja2.StrictUndefined
    )


def _policy(scripts: Sequence[str]) -> str:
    """Return a policy under which these scripts run and no other, and nothing is fetched."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _verdict(health: Health) -> str:
    said = [f"{health.certified} of {health.rows} rows are certified in full"]
    if health.short:
        missed = f"{health.unconverged} of {health.triplets} triplets not certified"
        said.append(f"{health.short} have values with {missed}")
    if health.failed:
        said.append(f"{health.failed} failed, for the reasons below")
    said.append(f"{health.missing} are missing" if health.missing else "none is missing")
    if health.below_residual:
        said.append(
            f"{health.below_residual} of {health.triplets} values are below their own residual, "
            "which is all that is known of their size"
        )
    return "; ".join(said) + "."


def _spec(run: RunValues) -> list[tuple[str, str]]:
    identity = run.store.identity
    try:
        record = json.loads((run.store.folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = {}
    versions, photos = record.get("versions"), identity.photos
    chosen = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in (("per_class", photos.per_class), ("limit", photos.limit))
        if value is not None
    ]
    if photos.classes is not None:
        chosen.append(f"{len(photos.classes)} classes by name")
    sizes = identity.photo_input
    listed = ", ".join(identity.shards[:5]) + (", …" if len(identity.shards) > 5 else "")
    rows = [
        ("model", identity.model),
        ("weights, SHA-256", identity.weights_sha256),
        ("input", f"{sizes.size} × {sizes.size} pixels, {sizes.channels}"),
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
        said = ", ".join(f"{name} {value}" for name, value in versions.items())
        rows.append(("versions", said))
    return rows


def _lost(run: RunValues) -> list[dict[str, str]]:
    every = [(one.photo, one.layer, one.status, one.message) for one in run.failures]
    every += [(photo, layer, "missing", "") for photo, layer in run.missing]
    return [
        {
            "key": run.samples[photo].key,
            "shard": run.samples[photo].shard,
            "layer": layer,
            "status": status,
            "message": message,
        }
        for photo, layer, status, message in every
    ]


def _depth_titles(k: int) -> list[str]:
    estimates = [TITLES[name] for name in ESTIMATES]
    said = ["σ1", f"σ{k}", *estimates, "energy", "residual", "J defined to", "missed", "σ < r"]
    said += ["products", "seconds"]
    return ["depth", "module", "m × n", "photos", *said]


def _class_titles(k: int) -> list[str]:
    estimates = [TITLES[name] for name in ESTIMATES]
    said = ["σ1", f"σ{k}", *estimates, "energy", "residual", "J defined to", "missed", "σ < r"]
    return ["class", "wnid", "photos", *said]


def _depth_cells(depth: DepthValues, found: Estimates) -> list[dict[str, Any]]:
    count = len(depth.photo)
    cells: list[dict[str, Any]] = [
        {"text": depth.kind, "value": None},
        {"text": f"{depth.shape[0]} × {depth.shape[1]}", "value": depth.shape[0]},
        {"text": str(count), "value": count},
    ]
    means = [depth.s[:, 0].mean(), depth.s[:, -1].mean()] if count else [math.nan, math.nan]
    cells += [_cell(mean) for mean in means]
    for name in ESTIMATES:
        cell = _cell(_mean(found.values[name]))
        if found.bounds(name):
            cell["text"] = f"≥ {cell['text']}"
        cells.append(cell)
    missed = float((depth.s.shape[1] - depth.converged).sum()) if count else math.nan
    worst = depth.relative[depth.relative >= 0]
    cells.append(_cell(_mean(depth.energy), "energy"))
    cells.append(_cell(float(worst.max()) if len(worst) else math.nan, "residual"))
    cells.append(_cell(float(np.fmax.reduce(depth.defined_to, initial=np.nan)), "defined"))
    below = float(depth.below_residual.sum()) if count else math.nan
    cells += [_cell(missed), _cell(below)]
    return [*cells, _cell(_mean(depth.products)), _cell(_mean(depth.seconds))]


def _class_rows(classes: Classes, rows: ClassRows, payload: Payload) -> list[dict[str, Any]]:
    return [
        {
            "name": classes.names[at],
            "id": classes.keys[at][1] or "",
            "cells": [
                _cell(float(rows.photos[at])),
                *(_cell(float(rows.numbers[name][at]), name) for name in COLUMNS),
            ],
        }
        for at in payload.classes
    ]


def _cell(value: float, name: str = "") -> dict[str, Any]:
    if not math.isfinite(value):
        return {"text": "—", "value": None}
    text = number(value)
    if name in _PERCENT:
        text = f"{100 * value:.0f} %"
    elif name in _POWER:
        text = f"{value:.0e}"
    return {"text": text, "value": f"{value:.7g}"}


def _mean(values: Any) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan
