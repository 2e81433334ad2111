"""The means of a run as a table for a terminal."""

from __future__ import annotations

import math

from jvpsvd.report.estimates import in_words
from jvpsvd.report.summary import DepthSummary
from jvpsvd.survey import Store
from jvpsvd.svd.spectral_density import DEFAULT_PROBES, DEFAULT_STEPS
from jvpsvd.text_table import (
    Column,
    TextTable,
    brief_seconds,
    count_noun,
    significant,
    with_article,
)


def table(store: Store, summaries: list[DepthSummary]) -> TextTable:
    """Return the summaries as a table for a terminal: means over photos, worst residuals.

    Example: ``print(table(store, summarize(store)))``.
    """
    counts, identity = store.counts, store.identity
    k, one = max(counts.values()), identity.sample_word
    differ = len({*counts.values()}) > 1
    columns, rows = [Column("depth", left=True)], [[depth.layer] for depth in summaries]

    def add(heading: str, cells: list[str], note: str = "", drop: int = 0) -> None:
        columns.append(Column(heading, note, drop))
        for row, cell, depth in zip(rows, cells, summaries, strict=True):
            row.append(cell if depth.photos or heading in (f"{one}s", "m x n") else "")

    add("m x n", [f"{m} x {n}" for m, n in (depth.shape for depth in summaries)], drop=4)
    add(f"{one}s", [_count_photos(depth) for depth in summaries], drop=6)
    if differ:
        add("k", [str(counts[depth.layer]) for depth in summaries], drop=9)
    add("σ1", [_mean_value(depth, 0) for depth in summaries])
    if k > 1:
        last = "σk" if differ else f"σ{k}"
        add(last, [_mean_value(depth, -1) for depth in summaries], drop=8)
    threshold = summaries[0].threshold
    shared = "" if identity.own_starts else f", which all {one}s share"
    add(
        f"σ ≥ {threshold:g}",
        [in_words(depth.count, at_least=depth.count_is_cut) for depth in summaries],
        f"σ ≥ {threshold:g}: of all min(m, n) values, ± standard error of sampling{shared} "
        "(bounds apart from it)",
    )
    add("energy", [_percent(depth.energy) for depth in summaries], drop=5)
    add(
        "residual",
        [f"{depth.worst_residual:.0e}" for depth in summaries],
        f"residual: worst of all triplets, over σ1 (tol {identity.tol:g})",
        drop=3,
    )
    add(
        "J moves",
        ["—" if math.isnan(d.defined_to) else f"{d.defined_to:.0e}" for d in summaries],
        f"J moves: by so much over σ1 with rounding of the {one}, at the worst {one}",
        drop=2,
    )
    add(
        "missed",
        [str(depth.unconverged) for depth in summaries],
        "missed: triplets not certified" if any(d.unconverged for d in summaries) else "",
    )
    add(
        "products",
        [f"{depth.products:.0f}" for depth in summaries],
        _products_note(k, identity.density),
        drop=1,
    )
    add(
        "s",
        [brief_seconds(depth.seconds) for depth in summaries],
        f"s: seconds {with_article(one)}",
        drop=7,
    )
    if any(depth.below_residual for depth in summaries):
        add(
            "σ < r",
            [str(depth.below_residual) for depth in summaries],
            "σ < r: values below their own residual, of which only σ + r is known as a bound",
        )
    return TextTable(identity.model, columns, rows, f"k = {k}: means over {one}s")


def _products_note(k: int, density: bool) -> str:
    """Return what products are to be compared with."""
    if density:
        return (
            f"products: {DEFAULT_PROBES} random vectors take up to {DEFAULT_STEPS} steps of two "
            f"each, {count_noun(k, 'triplet')} the rest"
        )
    return f"products: 2k = {2 * k} is the least for k triplets, or m or n if that is less"


def _count_photos(depth: DepthSummary) -> str:
    failed = f" (+{depth.failed} failed)" if depth.failed else ""
    return f"{depth.photos}{failed}"


def _mean_value(depth: DepthSummary, index: int) -> str:
    return significant(float(depth.s[:, index].mean())) if depth.photos else ""


def _percent(share: float) -> str:
    return "—" if math.isnan(share) else f"{100 * share:.0f} %"
