"""The section of the page that compares a run with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jvpsvd.report.compare import compare_runs, comparison_table, differing_fields
from jvpsvd.report.values import RunValues


@dataclass(frozen=True)
class ComparedRuns:
    """What the section shows."""

    folder: str
    """Of the other run."""
    differing: Sequence[str]
    """In what the runs differ, a line for each option."""
    titles: Sequence[str]
    rows: Sequence[dict[str, Any]]
    note: str


def compare_on_page(first: RunValues, second: RunValues, threshold: float) -> ComparedRuns:
    """Return the section on the page of the second run: its differences from the first.

    Raises:
        ArgumentError: If no depth of one belongs to one of the other.
    """
    found = compare_runs(first, second, threshold)
    table = comparison_table(found, "", first.store.identity.sample_word)
    rows = [
        {"name": name, "cells": [{"text": cell, "value": None} for cell in cells]}
        for name, *cells in table.rows
    ]
    notes = [table.subtitle, *(column.note for column in table.columns if column.note)]
    note = "; ".join(notes)
    return ComparedRuns(
        first.store.folder.name,
        differing_fields(first, second),
        [column.heading for column in table.columns],
        rows,
        f"{note[0].upper()}{note[1:]}.",
    )
