"""Planned costs as a table."""

from __future__ import annotations

from collections.abc import Sequence

from jvpsvd.machine import in_words
from jvpsvd.survey import DepthCost, Foretold
from jvpsvd.text_table import Column, TextTable, brief_seconds


def foretold_table(found: Foretold, title: str, subtitle: str) -> TextTable:
    """Return what a network would take on a device as a table for a terminal.

    Example: ``print(foretold_table(survey.foretell(model, device, 20), "my network", ""))``.
    """
    columns = (
        Column("depth", left=True),
        Column("units", drop=2),
        Column("k", drop=1),
        Column("products", drop=3),
        Column("activations", "activations: what derivatives at one input hold", drop=5),
        Column("bases", "bases: of one solve, with its result", drop=4),
        Column("in all", f"in all: with {in_words(found.weights)} of weights in float32"),
        Column("seconds"),
    )
    rows = []
    for cost in found.depths:
        sizes = [str(cost.units), str(cost.k)]
        activations, needed = found.activations[cost.name], found.needed(cost)
        cells = [in_words(activations), "over memory", "", ""]
        if cost.bytes is not None:
            cells[1:] = [in_words(cost.bytes), in_words(needed), brief_seconds(cost.seconds or 0)]
        products = "" if cost.products is None else str(cost.products)
        rows.append([cost.name, *sizes, products, *cells])
    most = max((found.needed(cost) for cost in found.depths), default=found.weights)
    memory, device = in_words(found.device.memory), found.device.name
    planned = all(cost.bytes is not None for cost in found.depths)
    fits = "it fits" if planned and most <= found.device.memory else "IT DOES NOT FIT"
    timed = "" if found.timed else "; this network was not timed"
    notes = (
        f"{device}: {memory}; the largest depth takes {in_words(most)}: {fits}",
        "seconds: of one solve; its arithmetic at half of the published float32 rate, its steps as "
        f"they were timed on an H200 at EfficientNet-Lite0{timed}",
        "products: a GPU takes wider blocks than a CPU, and so needs more products",
    )
    return TextTable(title, columns, rows, subtitle, notes)


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
