"""Which published architectures work, how their derivatives are taken, and how exact they are.

    python -m benchmarks reach [--only PATTERN] [--times] [--out FILE] [--docs FILE]

Small networks with random weights (`problems/architectures.py`) are differentiated between two of
their depths, in float32 and in float64, and products are compared with rows of a dense Jacobian
in float64 by plain reverse passes. Each network has a child process to fail in. An environment for
all of them has its own torch:

    pip install torch==2.14.1 torchvision==0.29.1 transformers timm diffusers
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure.children import run_child
from benchmarks.problems.architectures import ARCHITECTURES

PACKAGES = ("torch", "transformers", "timm", "torchvision", "diffusers")
SECONDS = 240.0
TOGETHER = 6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks reach", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--only", default="*", help="patterns of names, as 'timm:*,torch:*'")
    parser.add_argument("--times", action="store_true", help="compare times with the transforms")
    parser.add_argument("--out", type=Path, help="a JSON file, whose rows of other names stay")
    parser.add_argument("--docs", type=Path, help="a page for the table")
    given = parser.parse_args(arguments)
    patterns = given.only.split(",")
    names = [n for n in ARCHITECTURES if any(fnmatch.fnmatch(n, one) for one in patterns)]
    rows: dict[str, dict[str, Any]] = {}
    if given.out is not None and given.out.exists():
        rows = {row["name"]: row for row in json.loads(given.out.read_text())["rows"]}
    measured = measure(names, times=given.times)
    for row in measured:
        print(_line(row), flush=True)
        rows[row["name"]] = row
        if given.out is not None:
            given.out.write_text(json.dumps(_record(rows), indent=1) + "\n")
    if given.docs is not None:
        given.docs.write_text(page(_record(rows)))
    right, recorded = _count(list(rows.values()))
    print(f"{len(rows)} architectures: {right} right, {recorded} recorded")
    return 0


def _record(rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the rows in the order of the catalogue, with what they were measured with."""
    return {
        "versions": _versions(),
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
        "rows": [rows[name] for name in ARCHITECTURES if name in rows],
    }


def measure(names: Sequence[str], *, times: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each architecture; one that ends its process has a row that says so."""
    pending = list(names)
    while pending:
        together = pending[:TOGETHER]
        options = {"names": together, "times": times}
        ended = run_child("benchmarks.parts.reach_child", options, limit=SECONDS * len(together))
        found = ended.rows
        if len(found) < len(together):
            name = together[len(found)]
            failure = {"outcome": "error", "reason": ended.failure or "no answer"}
            found = [*found, {"name": name, "kind": ARCHITECTURES[name].kind, **failure}]
        yield from found
        pending = pending[len(found) :]


def _count(rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    right = sum(map(is_right, rows))
    return right, sum(row["outcome"] == "recorded" for row in rows)


def is_right(row: dict[str, Any]) -> bool:
    """Return whether products are those of the dense Jacobian, to rounding.

    Some networks compute in float32 inside, whatever their dtype.
    """
    return bool(row.get("error_float64", 1) < 1e-6 or row.get("error_float32", 1) < 1e-5)


def page(record: dict[str, Any]) -> str:
    """Return the table of a record as a page of the docs."""
    rows, versions = record["rows"], record["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    right, recorded = _count(rows)
    counts = f"{right} are right, {recorded} are recorded."
    lines = [_ABOUT.format(count=len(rows), date=record["date"], versions=listed, counts=counts)]
    for package in dict.fromkeys(row["name"].partition(":")[0] for row in rows):
        lines += [f"## {package}", "", _HEAD, _RULE]
        lines += [_cells(row) for row in rows if row["name"].startswith(f"{package}:")]
        lines.append("")
    return "\n".join(lines)


_ABOUT = """# Architectures

Written by `python -m benchmarks reach --docs docs/architectures.md`, which anyone can run; edit
[reach.py](../benchmarks/parts/reach.py) instead of this page.

{count} published architectures, small and with random weights, on {date} with {versions}: {counts}

*Recorded* are those whose products replay a recording, which is fastest; *transforms* are those of
`torch.func`, and *reverse passes* slow ones. The errors are those of JVPs and VJPs against rows of
a dense Jacobian in float64, relative to it, for products in float32 and in float64. Networks that
compute in float32 inside, whatever their dtype, show that in the last column. In float32 a ReLU on
the other side of its kink counts as an error. How each network is made and called is in
[architectures.py](../benchmarks/problems/architectures.py).
"""
_HEAD = "| network | from | to | rows × columns | products | error, float32 | float64 |"
_RULE = "|---|---|---|---|---|---|---|"
_ERRORS = ("error_float32", "error_float64")


def _cells(row: dict[str, Any]) -> str:
    name = row["name"].partition(":")[2]
    if "error_float32" not in row:
        reason = _shown(row["reason"])
        where = f"{row.get('from', '')} | {row.get('to', '')}"
        return f"| {name} | {where} | | {row['outcome']}: {reason} | | |"
    why = _shown(row["reason"].partition(": ")[2].partition(";")[0])
    how = row["outcome"] + (f": {why}" if why else "")
    size = f"{row['rows']} × {row['columns']}"
    errors = " | ".join(f"{row[key]:.0e}" if key in row else "" for key in _ERRORS)
    return f"| {name} | {row['from']} | {row['to']} | {size} | {how} | {errors} |"


def _shown(reason: str) -> str:
    """Return a reason as a cell, without the file and line: these are of one machine."""
    return re.sub(r" \(/\S+, line .*", "", reason).replace("|", "\\|")[:160]


def _line(row: dict[str, Any]) -> str:
    errors = " ".join(f"{row[k]:.0e}" for k in ("error_float32", "error_float64") if k in row)
    times = " ".join(f"{row[k]}" for k in row if k.endswith("over_transforms"))
    said = f" | said: {row['said'][0][:150]}" if row.get("said") else ""
    reason = f" {row['reason'][:300]}" if row.get("reason") else ""
    seconds = row.get("seconds", "")
    return f"{row['name']}: {row['outcome']} {errors} [{times}] {seconds}s{reason}{said}"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
