"""Figures of stored results, one function for each part.

python -m benchmarks figures RESULT.json ... [--out FOLDER]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.measure.machine import slug
from benchmarks.measure.phases import PHASES
from benchmarks.publish.peers_tables import in_order
from benchmarks.publish.record import Record, RecordError, read_records
from benchmarks.publish.tables import MARKS, of_another_commit

GOOD, DOUBT, BAD, NONE = "#2a7f62", "#e0a030", "#b5332e", "#d8d8d8"
COLOURS = {
    "right": GOOD,
    "unsure": DOUBT,
    "honest": DOUBT,
    "silent": BAD,
    "broken": "#6b2737",
    "unable": NONE,
    "absent": NONE,
    "skipped": NONE,
}
SHOWN = {**MARKS, "unsure": "unsure", "silent": "SILENT"}
STACK = ("#2f5d8a", "#5b9bd5", "#9dc3e6", "#2a7f62", "#e0a030", "#bbbbbb")


def peers_figure(record: Record) -> Figure:
    """Return a panel for each problem and k, with a bar for each solver, coloured by its outcome.

    The bars of solvers that were given up are hatched, since they would be longer.
    """
    problems = list(dict.fromkeys((row["problem"], row["k"]) for row in record.rows))
    columns = min(3, len(problems))
    lines = -(-len(problems) // columns)
    solvers = in_order(record.rows)
    figure = Figure(figsize=(4.6 * columns, 0.6 + (0.5 + 0.2 * len(solvers)) * lines))
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for panel in panels.flat[len(problems) :]:
        panel.set_visible(False)
    for panel, problem in zip(panels.flat, problems, strict=False):
        rows = {r["solver"]: r for r in record.rows if (r["problem"], r["k"]) == problem}
        for position, solver in enumerate(solvers):
            row = rows.get(solver)
            if row is None or "seconds" not in row or row["outcome"] == "unable":
                note = SHOWN[row["outcome"]] if row else ""
                panel.text(0.02, position, note, transform=panel.get_yaxis_transform(), size=6)
                continue
            seconds = row["seconds"]
            reach = [[seconds["median"] - seconds["least"]], [seconds["most"] - seconds["median"]]]
            panel.barh(
                position,
                seconds["median"],
                xerr=reach,
                color=COLOURS[row["outcome"]],
                height=0.7,
                hatch="///" if (row["note"] or "").startswith("gave up") else None,
                edgecolor="white",
            )
        panel.set_yticks(range(len(solvers)), solvers, fontsize=7)
        panel.invert_yaxis() if panel is panels.flat[0] else None
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_title(f"{problem[0]}, k = {problem[1]}", fontsize=8)
        panel.set_xlabel("seconds", fontsize=7)
        panel.tick_params(axis="x", labelsize=7)
    legend = "green: right, yellow: says it is not (hatched: given up), red: wrong in silence"
    return _titled(figure, record, legend)


def floors_figure(record: Record) -> Figure:
    """Return wall times over their floor, stacked by parts; a line marks 1."""
    figure = Figure(figsize=(8, 1.2 + 0.5 * len(record.rows)))
    panel = figure.subplots()
    names = [f"{row['problem']}, k = {row['k']}" for row in record.rows]
    left = [0.0] * len(names)
    for part, colour in zip(PHASES, STACK, strict=True):
        widths = [row["parts"].get(part, 0.0) / row["floor"] for row in record.rows]
        panel.barh(range(len(names)), widths, left=left, label=part, color=colour)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    panel.axvline(1.0, color="black", linewidth=1)
    panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.invert_yaxis()
    panel.set_xlabel("wall time / time of k batched JVPs and VJPs")
    panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _titled(figure, record)


def growth_figure(record: Record) -> Figure:
    """Return seconds and memory against each axis, with the fitted exponents."""
    axes = list(dict.fromkeys(row["axis"] for row in record.rows))
    figure = Figure(figsize=(3.2 * len(axes), 5))
    panels = figure.subplots(2, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        rows = [r for r in record.rows if r["axis"] == axis and r["x"] and "seconds" in r]
        fits = next((r["fit"] for r in record.rows if r["axis"] == axis and "fit" in r), {})
        xs = [row["x"] for row in rows]
        for line, (name, unit, of) in enumerate(
            (
                ("seconds", "seconds", lambda r: r["seconds"]["median"]),
                ("peak_bytes", "MiB", lambda r: r["peak_bytes"] / 2**20),
            )
        ):
            panel, ys = panels[line][column], [of(row) for row in rows]
            if not any(ys):  # memory of workers was not measured before commit a12c43e
                panel.set_visible(False)
                continue
            panel.loglog(xs, ys, "o-", color=STACK[0])
            panel.set_xticks(xs, [f"{x:g}" for x in xs], fontsize=7)
            panel.tick_params(axis="y", which="both", labelsize=7)
            panel.xaxis.set_minor_formatter(NullFormatter())
            fit = fits.get(name)
            panel.set_title(f"{axis}: exponent {fit['exponent']:.2f}" if fit else axis, fontsize=8)
            panel.set_xlabel(axis, fontsize=8)
            panel.set_ylabel(unit, fontsize=8)
    return _titled(figure, record)


def safety_figure(record: Record) -> Figure:
    """Return the table of cases and solvers, coloured by outcome."""
    cases = list(dict.fromkeys(row["case"] for row in record.rows))
    absent = {row["solver"] for row in record.rows if row["outcome"] in ("absent", "unable")}
    solvers = [s for s in dict.fromkeys(r["solver"] for r in record.rows) if s not in absent]
    outcome = {(row["case"], row["solver"]): row["outcome"] for row in record.rows}
    figure = Figure(figsize=(2 + 0.62 * len(solvers), 1.6 + 0.35 * len(cases)))
    panel = figure.subplots()
    for y, case in enumerate(cases):
        for x, solver in enumerate(solvers):
            found = outcome.get((case, solver), "skipped")
            panel.add_patch(_cell(x, y, COLOURS[found]))
            panel.text(x, y, SHOWN.get(found, found), ha="center", va="center", fontsize=6)
    panel.set_xlim(-0.5, len(solvers) - 0.5)
    panel.set_ylim(len(cases) - 0.5, -0.5)
    panel.set_xticks(range(len(solvers)), solvers, rotation=60, ha="right", fontsize=7)
    panel.set_yticks(range(len(cases)), cases, fontsize=8)
    panel.tick_params(length=0)
    return _titled(figure, record)


def gpu_figure(record: Record) -> Figure:
    """Return times on the card, a bar for each problem and solver, the floor as a tick."""
    rows = [row for row in record.rows if row["kind"] == "time"]
    rows.sort(key=lambda row: bool(of_another_commit(row, record)))
    figure = Figure(figsize=(8, 1.2 + 0.3 * max(1, len(rows))))
    panel = figure.subplots()
    for position, row in enumerate(rows):
        colour = COLOURS.get(row.get("outcome", "skipped"), NONE)
        panel.barh(position, row["seconds"]["median"], color=colour)
        if row.get("floor"):
            panel.plot([row["floor"]] * 2, [position - 0.4, position + 0.4], color="black")
    names = [f"{row['problem']}{of_another_commit(row, record)}  {row['solver']}" for row in rows]
    panel.set_yticks(range(len(rows)), names, fontsize=7)
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xscale("log")
    panel.set_xlabel("seconds (black: k batched JVPs and VJPs)")
    seen = dict.fromkeys(row.get("outcome", "skipped") for row in rows)
    handles = [Patch(color=COLOURS[one], label=SHOWN.get(one, one)) for one in seen]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return _titled(figure, record)


FIGURES: dict[str, Callable[[Record], Figure]] = {
    "peers": peers_figure,
    "floors": floors_figure,
    "growth": growth_figure,
    "safety": safety_figure,
    "gpu": gpu_figure,
}


def _cell(x: int, y: int, colour: str) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, color=colour, alpha=0.75)


def _titled(figure: Figure, record: Record, more: str = "") -> Figure:
    machine = record.machine
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    quick = "QUICK SIZES, no claim; " if record.quick else ""
    text = f"{quick}{where}; {record.created[:10]}"
    figure.suptitle(f"{text}\n{more}" if more else text, fontsize=8)
    figure.set_layout_engine("constrained")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks figures", description=__doc__.splitlines()[0]
    )
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT.json")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args(arguments)
    try:
        records = [record for file in options.results for record in read_records(file)]
    except RecordError as error:
        print(error, file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    for record in records:
        if record.part in FIGURES:
            file = options.out / f"{record.part}-{slug(record.machine)}.png"
            FIGURES[record.part](record).savefig(file, dpi=150)
            print(file)
    return 0
