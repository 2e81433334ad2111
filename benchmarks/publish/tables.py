"""What all tables of results share: words for outcomes, the origin of figures, and markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.publish.record import Record

MARKS = {
    "right": "right",
    "unsure": "right, unsure",
    "honest": "says so",
    "silent": "**silent**",
    "broken": "dies",
    "unable": "cannot",
    "absent": "absent",
    "skipped": "too big",
}


def origin(record: Record, part: str) -> str:
    """Return the line above a table: command, machine, versions, and the commits of its rows."""
    machine = record.machine
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] != 1)}"
    where = machine.get("gpu") or f"{machine['cpu']}, {threads}"
    versions = machine["versions"]
    quick = " QUICK SIZES, no claim." if record.quick else ""
    runs = dict.fromkeys(
        (row.get("commit", record.commit), row.get("created", record.created)[:10])
        for row in record.rows
    )
    commits = ", ".join(f"commit {commit} of {day}" for commit, day in runs)
    return (
        f"`python -m benchmarks {part}` on {where} (torch {versions.get('torch', '?')}; {commits}):"
        f"{quick}"
    )


def of_another_commit(row: dict[str, Any], record: Record) -> str:
    """Return the commit of a row in parentheses, where it is not that of the record."""
    return "" if row.get("commit", record.commit) == record.commit else f" ({row['commit']})"


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """Return the lines of a markdown table."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *(line(row) for row in body)]
