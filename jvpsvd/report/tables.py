"""The numbers of a report as CSV files, for whoever goes on with them elsewhere."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jvpsvd.report.agreement import (
    AGREEMENT_COLUMNS,
    agreement_table,
    distance_table,
    wordnet_table,
)
from jvpsvd.report.analysis import Analysis
from jvpsvd.report.classes import COLUMNS, RANGE_COLUMNS
from jvpsvd.report.estimates import BOUNDED, ESTIMATES
from jvpsvd.report.files import write_data
from jvpsvd.report.summary import mean_counts
from jvpsvd.survey.store.files import make_folder

# A spreadsheet takes text that begins so for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_tables(analysis: Analysis, folder: Path) -> list[Path]:
    """Write spectra, dimensions, classes, failures and trees as CSV; return the files.

    Text that a spreadsheet would run as a formula has an apostrophe before it.

    Raises:
        DiskError: If one cannot be written.

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
    files.append(folder / "decay.csv")
    _write(
        files[-1],
        ["layer", "shard", "key", "alpha", "alpha_r2", "tau", "tau_r2"],
        (
            [depth.values.layer, run.samples[photo].shard, run.samples[photo].key]
            + [
                one[index]
                for decay in [depth.decay]
                for one in (decay.power, decay.power_fit, decay.length, decay.length_fit)
            ]
            for depth in analysis.depths
            for index, photo in enumerate(depth.values.photo)
        ),
    )
    return [*files, *_write_classes(analysis, folder)]


def _write_classes(analysis: Analysis, folder: Path) -> list[Path]:
    """Write what holds classes against WordNet, where there are such."""
    if analysis.trees is None:
        return []
    compared, pair = analysis.trees.compared, ["wnid", "other_wnid"]
    names = ("class-tree", "class-distances", "wordnet-distances")
    files = [folder / f"{name}.csv" for name in names]
    _write(files[0], AGREEMENT_COLUMNS, agreement_table(compared))
    _write(files[1], ["layer", *pair, "distance"], distance_table(compared))
    _write(files[2], [*pair, "name", "other_name", "distance"], wordnet_table(compared))
    return files


def _write(file: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([_format(value) for value in row] for row in rows)
    write_data(file, out.getvalue().encode("utf-8", errors="replace"))


def _format(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    if isinstance(value, float | np.floating):
        return "" if not math.isfinite(value) else f"{value:.7g}"
    return value
