"""How wall time and memory grow: with k, n, images, workers and ranks; the part "growth".

Every point of an axis is measured in a process of its own (`growth_child.py`), round by round.
Exponents are fitted to the logarithms of medians; each comes with the worst factor that it is off.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from benchmarks.measure.children import run_child
from benchmarks.measure.spread import Spread, fit_power

_LIMIT = 3600.0


@dataclass(frozen=True)
class Axis:
    """What grows, and what stays as it is."""

    name: str
    points: tuple[int, ...]
    fixed: dict[str, Any]
    about: str


def _cores() -> tuple[int, ...]:
    count = os.cpu_count() or 1
    return tuple(n for n in (1, 2, 4, 8, 16) if n <= count)


FULL = (
    Axis("k", (10, 30, 100, 300, 1000), {"problem": "lite0/_blocks.9"}, "triplets of one Jacobian"),
    Axis(
        "n",
        (10**3, 10**4, 10**5, 10**6, 10**7),
        {"spectrum": "1/i", "k": 20},
        "columns, 1/i, k = 20",
    ),
    Axis("images", (1, 4, 16, 64, 256, 1000), {"k": 100}, "digits in one batch, k = 100"),
    Axis("workers", _cores(), {"k": 20, "photos": 20}, "Ray workers of one thread, 20 photos"),
    Axis("ranks", _cores(), {"problem": "lite0/_blocks.15", "k": 100}, "ranks of one solve, gloo"),
)
QUICK = (
    Axis("k", (2, 5, 10, 20), {"problem": "1/i/n=1e3"}, "triplets of a synthetic matrix"),
    Axis("n", (500, 1000, 2000), {"spectrum": "1/i", "k": 5}, "columns, 1/i"),
    Axis("images", (1, 2), {"k": 5}, "digits in one batch, k = 5"),
    Axis("ranks", (1, 2), {"problem": "perceptron", "k": 5}, "ranks of one solve, gloo"),
)


def measure(axes: tuple[Axis, ...], rounds: int) -> list[dict[str, Any]]:
    """Return a row for each point of each axis, and one with the exponents of each axis."""
    rows: list[dict[str, Any]] = []
    for axis in axes:
        found: dict[int, list[dict[str, Any]]] = {x: [] for x in axis.points}
        notes: dict[int, str] = {}
        for _ in range(rounds):
            for x in axis.points:
                if x in notes:
                    continue
                options = {"axis": axis.name, "x": x, **axis.fixed}
                ended = run_child("benchmarks.parts.growth_child", options, limit=_LIMIT)
                if ended.rows and "seconds" in ended.rows[0]:
                    found[x].append(ended.rows[0])
                else:
                    reason = ended.rows[0].get("unavailable") if ended.rows else None
                    notes[x] = reason or ended.failure or "no answer"
        rows += make_rows(axis, found, notes)
    return rows


def make_rows(
    axis: Axis, found: dict[int, list[dict[str, Any]]], notes: dict[int, str]
) -> list[dict[str, Any]]:
    """Return the rows of one axis, and print them."""
    about = {"axis": axis.name, "about": axis.about, "fixed": axis.fixed}
    rows: list[dict[str, Any]] = []
    for x, measured in found.items():
        row: dict[str, Any] = {**about, "x": x, "note": notes.get(x, "")}
        if measured:
            row["seconds"] = Spread.of([one["seconds"] for one in measured]).to_json()
            row["peak_bytes"] = max(one["peak_bytes"] for one in measured)
            row["products"] = measured[-1]["products"]
        rows.append(row)
        seconds = Spread.from_json(row["seconds"]) if measured else row["note"]
        memory = f", {row['peak_bytes'] / 2**20:.0f} MiB" if measured else ""
        print(f"{axis.name:8} {x:>9}  {seconds} s{memory}", flush=True)
    fits = {}
    timed = [row for row in rows if "seconds" in row]
    for name, of in (
        ("seconds", lambda row: row["seconds"]["median"]),
        ("peak_bytes", lambda row: row["peak_bytes"]),
    ):
        power = fit_power([row["x"] for row in timed], [of(row) for row in timed])
        if power is not None:
            fits[name] = {"exponent": power.exponent, "scatter": power.scatter}
            print(f"{axis.name:8} {name} grow as {power}")
    return [*rows, {**about, "x": None, "fit": fits}]
