"""How far distances of classes by spectra are those of WordNet, as a table and as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jvpsvd.survey.store.class_distances import ClassComparison, ClassDistances


def agreement_titles() -> list[str]:
    """Return the headings of the table."""
    return [
        "depth",
        "correlation",
        "p",
        "95 % interval",
        "shuffled",
        "nearest",
        "chance",
        "p of nearest",
    ]


def agreement_rows(compared: ClassComparison) -> list[dict[str, Any]]:
    """Return a row for each depth."""
    return [{"name": depth.layer, "cells": _cells(depth)} for depth in compared.depths]


def _cells(depth: ClassDistances) -> list[dict[str, Any]]:
    test, interval, nearest = depth.test, depth.interval, depth.nearest
    mean, deviation = depth.shuffled
    ends = None if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"
    return [
        _cell(None if test is None else test.correlation, ".3f"),
        _cell(None if test is None else test.p_value, ".2g"),
        # One number does not hold both ends: it only sorts.
        {
            "text": ends or "—",
            "value": None if interval is None else f"{interval.low:.7g}",
            "order": True,
        },
        {
            "text": "—" if math.isnan(mean) else f"{mean:.2f} ± {deviation:.2f}",
            "value": None if math.isnan(mean) else f"{mean:.7g}",
        },
        _cell(None if nearest is None else nearest.precision, ".1%"),
        _cell(None if nearest is None else nearest.chance, ".1%"),
        _cell(None if nearest is None else nearest.p_value, ".2g"),
    ]


def _cell(value: float | None, digits: str) -> dict[str, Any]:
    if value is None:
        return {"text": "—", "value": None}
    return {"text": f"{value:{digits}}".replace("%", " %"), "value": f"{value:.7g}"}


AGREEMENT_COLUMNS = (
    "layer", "classes", "spearman", "p_value", "null_mean", "null_deviation", "low_95", "high_95",
    "shuffled_mean", "shuffled_deviation", "nearest_precision", "nearest_chance", "nearest_p_value",
)  # fmt: skip
"""Columns of class-tree.csv."""


def agreement_table(compared: ClassComparison) -> Iterator[list[Any]]:
    """Yield a row of `AGREEMENT_COLUMNS` for each depth that has a correlation."""
    for depth in compared.depths:
        test, interval, nearest = depth.test, depth.interval, depth.nearest
        if test is None:
            continue
        ends = [math.nan] * 2 if interval is None else [interval.low, interval.high]
        near = [math.nan] * 3
        if nearest is not None:
            near = [nearest.precision, nearest.chance, nearest.p_value]
        row = [test.correlation, test.p_value, test.null_mean, test.null_deviation]
        yield [depth.layer, len(compared.wnids), *row, *ends, *depth.shuffled, *near]


def distance_table(compared: ClassComparison) -> Iterator[list[Any]]:
    """Yield layer, both classes and their distance by spectra, for each pair at each depth."""
    for depth in compared.depths:
        for first, second in _pairs(len(compared.wnids)):
            names = (compared.wnids[first], compared.wnids[second])
            yield [depth.layer, *names, float(depth.distances[first, second])]


def wordnet_table(compared: ClassComparison) -> Iterator[list[Any]]:
    """Yield both classes, their names and their distance in WordNet, for each pair."""
    for first, second in _pairs(len(compared.wnids)):
        pair = (first, second)
        wnids, names = ([one[i] for i in pair] for one in (compared.wnids, compared.names))
        yield [*wnids, *names, float(compared.wordnet[first, second])]


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(count) for j in range(i + 1, count))
