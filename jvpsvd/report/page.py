"""One page that shows a run, whole in one file: it opens from a disk and asks no network.

Plotly draws, because its JavaScript comes whole inside its Python package and needs no server, no
build and no other file. The page's own script connects it to the controls and sorts tables.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jvpsvd.imports import require
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.health import count_rows
from jvpsvd.report.page_tables import (
    class_rows,
    class_titles,
    depth_rows,
    depth_titles,
    describe_run,
    number,
    summarize_health,
    unsolved_rows,
)
from jvpsvd.report.payload import embedded, make_payload
from jvpsvd.report.thumbnails import Browser

_ASSETS = Path(__file__).with_name("assets")
_MAX_UNSOLVED = 200


def make_page(analysis: Analysis, browser: Browser, files: Sequence[str] = ()) -> str:
    """Return the page as HTML. Equal runs give equal pages.

    All text of the run is escaped, and a content security policy lets only the page's own scripts
    run and nothing be fetched.

    Args:
        analysis: The run.
        browser: Thumbnails.
        files: Names of files beside the page.

    Raises:
        ArgumentError: If plotly or jinja2 is not installed.

    Example: see `jvpsvd.report.write_report`, which makes all of these.
    """
    plotly, environment = _plotly(), _environment()
    run, payload, health = analysis.run, make_payload(analysis), count_rows(analysis.run)
    markup = importlib.import_module("markupsafe").Markup
    scripts = [plotly, (_ASSETS / "page.js").read_text(encoding="utf-8")]
    return str(
        environment.get_template("page.html").render(
            policy=_policy(scripts),
            css=markup((_ASSETS / "page.css").read_text(encoding="utf-8")),
            scripts=[markup(script) for script in scripts],
            data=markup(embedded(payload.record)),
            identity=run.store.identity,
            spec=describe_run(run),
            health=health,
            summary=summarize_health(health),
            problems=[*run.unreadable, *run.problems],
            unsolved=unsolved_rows(run)[:_MAX_UNSOLVED],
            unsolved_total=len(run.unsolved),
            depths=run.depths,
            depth_titles=depth_titles(run.common_k, analysis.threshold),
            fewer=run.common_k != run.store.identity.k,
            depth_rows=depth_rows(analysis),
            drawn=len(payload.drawn),
            with_values=len({int(photo) for depth in run.depths for photo in depth.photo}),
            line_indices=len(payload.record["line"]),
            class_titles=class_titles(run.common_k, analysis.threshold),
            class_rows=class_rows(analysis, payload.classes),
            class_total=len(analysis.classes),
            threshold=f"{analysis.threshold:g}",
            table_depth=run.depths[analysis.deepest].layer,
            trees=analysis.trees,
            no_trees=analysis.no_trees,
            browser=browser,
            number=number,
            files=files,
        )
    )


def _plotly() -> str:
    require("the page", "report", "plotly")
    return str(importlib.import_module("plotly.offline").get_plotlyjs())


def _environment() -> Any:
    require("the page", "report", "jinja2")
    jinja2 = importlib.import_module("jinja2")
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
