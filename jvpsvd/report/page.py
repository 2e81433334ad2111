"""One page that shows a run, whole in one file: it opens from a disk and asks no network.

Its own scripts draw the figures as SVG, from the numbers that stand in the page.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jvpsvd.imports import require
from jvpsvd.plot import style
from jvpsvd.report import sentences
from jvpsvd.report.agreement import agreement_rows, agreement_titles
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.compared_page import ComparedRuns
from jvpsvd.report.estimates import ESTIMATES, titles
from jvpsvd.report.health import count_rows
from jvpsvd.report.page_tables import (
    class_rows,
    class_titles,
    decay_rows,
    decay_titles,
    depth_rows,
    depth_titles,
    health_rows,
    health_titles,
    number,
    unsolved_rows,
)
from jvpsvd.report.payload import embedded, make_payload
from jvpsvd.report.thumbnails import Thumbnails

_ASSETS = Path(__file__).with_name("assets")
SCRIPTS = ("chart.js", "tables.js", "page.js", "photos.js")
"""The page's own scripts, in their order."""
_MAX_UNSOLVED = 200
_KEY = (
    2,
    4,
    5,
)  # σ₁, count and participation, of the table of depths: they stand beside the lines
_LEGEND_WIDTH = 2  # of the lines in legends
# Marks of the four estimates, as chart.js draws them.
_SHAPES = (
    '<circle cx="17" cy="6" r="4" style="fill: var(--e0)"/>',
    '<rect x="13" y="2" width="8" height="8" style="fill: var(--e1)"/>',
    '<path d="M17 0.5l5.5 5.5l-5.5 5.5l-5.5-5.5z" style="fill: var(--e2)"/>',
    '<path d="M17 1l5 9h-10z" style="fill: var(--e3)"/>',
)


def make_page(
    analysis: Analysis,
    thumbnails: Thumbnails,
    files: Sequence[str] = (),
    compared: ComparedRuns | None = None,
) -> str:
    """Return the page as HTML. Equal runs give equal pages.

    All text of the run is escaped, and a content security policy lets only the page's own scripts
    run and nothing be fetched.

    Args:
        analysis: The run.
        thumbnails: Images of vectors.
        files: Names of files beside the page.
        compared: What it says of another run.

    Raises:
        MissingPackageError: If jinja2 is not installed.

    Example: see `jvpsvd.report.write_report`, which makes all of these.
    """
    environment = _environment()
    run, payload, health = analysis.run, make_payload(analysis), count_rows(analysis.run)
    identity, trees = run.store.identity, analysis.trees
    command, command_note = sentences.command(run)
    heads = depth_titles(run.common_k, analysis.threshold, sentences.noun_of(run))
    markup = importlib.import_module("markupsafe").Markup
    scripts = [_read(name) for name in SCRIPTS]
    lengths = [" ".join(f"{_LEGEND_WIDTH * one:g}" for one in each) for each in style.DASHES]
    return str(
        environment.get_template("page.html").render(
            policy=_policy(scripts),
            css=markup(_read("page.css") + _colours(len(run.depths))),
            scripts=[markup(script) for script in scripts],
            data=markup(embedded(payload.record)),
            identity=identity,
            lead=sentences.lead(run),
            finding=sentences.finding(analysis),
            trust=sentences.trust(run),
            noun=sentences.noun_of(run),
            spec=sentences.describe_run(run),
            command=command,
            command_note=command_note,
            citations=sentences.citations(run),
            health=health,
            summary=sentences.summarize_health(health),
            health_titles=health_titles(),
            health_rows=health_rows(analysis, health),
            problems=[*run.unreadable, *run.problems],
            unsolved=unsolved_rows(run)[:_MAX_UNSOLVED],
            unsolved_total=len(run.unsolved),
            depths=run.depths,
            depth_titles=heads,
            depth_rows=depth_rows(analysis),
            key_titles=[heads[1 + at] for at in _KEY],
            key_cells=_KEY,
            has_bounds=any(one.estimates.bounds(e) for one in analysis.depths for e in ESTIMATES),
            has_rest=any(payload.record["rest"]),
            k=run.k,
            decay_titles=decay_titles(run.k),
            decay_rows=decay_rows(analysis),
            drawn=len(payload.drawn),
            with_values=len({int(photo) for depth in run.depths for photo in depth.photo}),
            class_titles=class_titles(run.common_k, analysis.threshold, sentences.noun_of(run)),
            class_rows=class_rows(analysis, payload.classes),
            class_total=len(analysis.classes),
            threshold=f"{analysis.threshold:g}",
            table_depth=run.depths[analysis.deepest].layer,
            estimate_titles=list(titles(analysis.threshold).values()),
            shapes=_SHAPES,
            dashes=lengths,
            trees=None if trees is None else trees.compared,
            meaning="" if trees is None else sentences.meaning(trees.compared),
            groups=[] if trees is None else sorted(set(trees.compared.superclasses)),
            agreement_titles=agreement_titles(),
            agreement_rows=[] if trees is None else agreement_rows(trees.compared),
            thumbnails=thumbnails,
            number=number,
            files=files,
            compared=compared,
        )
    )


def _read(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _colours(depths: int) -> str:
    """Return the colours of depths and kinds as variables: on white, and on black at night."""
    lines = []
    for on_dark, inks, picked in (
        (False, style.INKS, style.PICKED),
        (True, style.INKS_ON_DARK, style.PICKED_ON_DARK),
    ):
        named = [f"--d{i}:{c}" for i, c in enumerate(style.shades(depths, on_dark=on_dark))]
        named += [f"--e{i}:{c}" for i, c in enumerate(inks)]
        rule = f":root{{{';'.join(named)};--picked:{picked}}}"
        lines.append(
            f"@media screen and (prefers-color-scheme: dark){{{rule}}}" if on_dark else rule
        )
    return "\n".join(lines)


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
