"""The numbers of a report as CSV files, for whoever goes on with them elsewhere."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.report.class_trees import ClassTrees
from jvpsvd.report.classes import COLUMNS, Classes, ClassRows
from jvpsvd.report.estimates import ESTIMATES, Estimates
from jvpsvd.report.values import RunValues
from jvpsvd.survey.store.files import make_folder, refuse_other_kinds

# A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(
    run: RunValues,
    classes: Classes,
    rows: Sequence[ClassRows],
    estimates: Sequence[Estimates],
    trees: ClassTrees | None,
    folder: Path,
) -> list[Path]:
    """Write spectra, dimensions, classes, failures and trees as CSV; return the files.

    Text that a spreadsheet would run as a formula has an apostrophe before it.

    Raises:
        OSError: If the folder cannot be written.

    Example: ``write_tables(run, classes, rows, estimates, None, Path("run/report"))``.
    """
    make_folder(folder)
    samples, depths = run.samples, run.depths
    files = [folder / f"{name}.csv" for name in ("spectra", "dimensions", "classes", "failures")]
    _write(
        files[0],
        ["layer", "index", "mean", "deviation", "photos", "below_residual"],
        (
            [depth.layer, index + 1, mean, deviation, len(depth.photo), int(below)]
            for depth in depths
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
        ["layer", "shard", "key", "label", "wnid", *ESTIMATES, "count_is_cut", "lower_bounds"],
        (
            [depth.layer, one.shard, one.key, one.label, one.wnid]
            + [found.values[name][at] for name in ESTIMATES]
            + [int(found.cut[at]), int(found.bounded[at])]
            for depth, found in zip(depths, estimates, strict=True)
            for at, one in enumerate(samples[photo] for photo in depth.photo)
        ),
    )
    _write(
        files[2],
        ["layer", "label", "wnid", "name", "photos", *COLUMNS],
        (
            [depth.layer, *classes.keys[at], classes.names[at], int(one.photos[at])]
            + [one.numbers[name][at] for name in COLUMNS]
            for depth, one in zip(depths, rows, strict=True)
            for at in range(len(classes))
        ),
    )
    failed = [(one.photo, one.layer, one.status, one.message) for one in run.failures]
    missing = [(photo, layer, "missing", "") for photo, layer in run.missing]
    _write(
        files[3],
        ["shard", "key", "layer", "status", "message"],
        ([samples[p].shard, samples[p].key, *rest] for p, *rest in [*failed, *missing]),
    )
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
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.7g}"
    return value
