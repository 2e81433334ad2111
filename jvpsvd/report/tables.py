"""The numbers of a report as CSV files, for whoever goes on with them elsewhere."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.report.analysis import Analysis
from jvpsvd.report.classes import COLUMNS, RANGE_COLUMNS
from jvpsvd.report.estimates import BOUNDED, ESTIMATES
from jvpsvd.report.summary import mean_counts
from jvpsvd.survey.store.files import make_folder, refuse_other_kinds

# A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write spectra, dimensions, classes, failures and trees as CSV; return the files.

    Text that a spreadsheet would run as a formula has an apostrophe before it.

    Raises:
        OSError: If the folder cannot be written.

    Example: ``write_tables(analyse(run), Path("run/report"))``.
    """
    make_folder(folder)
    run, classes = analysis.run, analysis.classes
    files = [folder / f"{name}.csv" for name in ("spectra", "dimensions", "classes", "failures")]
    _write(
        files[0],
        ["layer", "index", "mean", "deviation", "photos", "below_residual"],
        (
            [depth.layer, index + 1, mean, deviation, len(depth.photo), int(below)]
            for depth in run.depths
            if len(depth.photo)
            for index, (mean, deviation, below) in enumerate(
                zip(
                    depth.s.mean(axis=0),
                    depth.s.std(axis=0),
                    (depth.residuals > depth.s).sum(axis=0),
                    strict=True,
                )
            )
        ),
    )
    _write(
        files[1],
        ["layer", "shard", "key", "label", "wnid", *ESTIMATES, "count_is_cut", "lower_bounds"]
        + [f"{name}_{part}" for name in BOUNDED for part in ("low", "high", "standard_error")],
        (
            [depth.values.layer, one.shard, one.key, one.label, one.wnid]
            + [depth.estimates.values[name][index] for name in ESTIMATES]
            + [int(depth.estimates.cut[index]), int(depth.estimates.bounded[index])]
            + [part[index] for name in BOUNDED for part in depth.estimates.ranges[name]]
            for depth in analysis.depths
            for index, one in enumerate(run.samples[photo] for photo in depth.values.photo)
        ),
    )
    _write(
        files[2],
        ["layer", "label", "wnid", "name", "photos", *COLUMNS, *RANGE_COLUMNS],
        (
            [depth.values.layer, *classes.keys[index], classes.names[index]]
            + [int(depth.classes.photos[index])]
            + [depth.classes.numbers[name][index] for name in (*COLUMNS, *RANGE_COLUMNS)]
            for depth in analysis.depths
            for index in range(len(classes))
        ),
    )
    files.append(folder / "counts.csv")
    _write(
        files[-1],
        ["layer", "threshold", "count", "low", "high", "standard_error"],
        (
            [depth.layer, *row]
            for depth in run.depths
            if (counts := mean_counts(depth)) is not None
            for row in zip(
                counts.grid,
                counts.value,
                counts.low,
                counts.high,
                counts.standard_error,
                strict=True,
            )
        ),
    )
    unsolved = ((run.samples[one.photo], one) for one in run.unsolved)
    _write(
        files[3],
        ["shard", "key", "layer", "status", "message"],
        (
            [sample.shard, sample.key, one.layer, one.status, one.message]
            for sample, one in unsolved
        ),
    )
    trees = analysis.trees
    if trees is not None:
        files.append(folder / "class-tree.csv")
        _write(
            files[-1],
            ["layer", "classes", "spearman", "p_value", "null_mean", "null_deviation"],
            (
                [
                    tree.layer,
                    len(trees.names),
                    test.correlation,
                    test.p_value,
                    test.null_mean,
                    test.null_deviation,
                ]
                for tree in trees.depths
                if (test := tree.test) is not None
            ),
        )
    return files


def _write(file: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    refuse_other_kinds(file)
    with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows([_format(value) for value in row] for row in rows)


def _format(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, float | np.floating):
        return "" if not math.isfinite(value) else f"{value:.7g}"
    return value
