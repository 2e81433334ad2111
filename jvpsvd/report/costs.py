"""Planned costs as a table."""

from __future__ import annotations

from collections.abc import Sequence

from jvpsvd.survey import DepthCost
from jvpsvd.svd.memory import in_words
from jvpsvd.text_table import Column, TextTable, brief_seconds


def costs_table(
    costs: Sequence[DepthCost], title: str, subtitle: str = "", notes: Sequence[str] = ()
) -> TextTable:
    """Return costs as a table for a terminal.

    Example: ``print(costs_table(survey.depth_costs(model, 100), "my network"))``.
    """
    columns = (
        Column("depth", left=True),
        Column("kind", left=True, drop=1),
        Column("units", drop=4),
        Column("k", drop=3),
        Column("method", drop=2),
        Column("products", drop=5),
        Column("memory", "memory: of the bases and the result of one solve"),
        Column("seconds"),
    )
    rows = []
    for cost in costs:
        method, products, memory = "none", "", "over memory"
        if cost.bytes is not None:
            method, products, memory = str(cost.method), str(cost.products), in_words(cost.bytes)
        seconds = "" if cost.seconds is None else brief_seconds(cost.seconds)
        sizes = [str(cost.units), str(cost.k)]
        rows.append([cost.name, cost.kind, *sizes, method, products, memory, seconds])
    return TextTable(title, columns, rows, subtitle, notes)
