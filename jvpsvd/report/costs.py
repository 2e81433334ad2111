"""Planned costs as a table."""

from __future__ import annotations

from rich.table import Table

from jvpsvd.survey import DepthCost


def costs_table(costs: list[DepthCost], title: str) -> Table:
    """Return costs as a table for a terminal."""
    made = Table(title=title, title_justify="left")
    made.add_column("depth", no_wrap=True)
    made.add_column("kind", no_wrap=True)
    for heading in ("units", "k", "method", "products", "memory", "seconds"):
        made.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        if cost.bytes is None:
            cells = ["none", "", "", "over memory"]
        else:
            gibibytes = f"{cost.bytes / (1 << 30):.2f} GiB"
            cells = [str(cost.method), str(cost.products), gibibytes, f"{cost.seconds:.0f}"]
        made.add_row(cost.name, cost.kind, str(cost.units), str(cost.k), *cells)
    return made
