"""Writes the report of a run: the page, and its figures and tables as files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jvpsvd.arguments import as_path, shown
from jvpsvd.data import RemoteShard, Shard, find_shards
from jvpsvd.data.locations import as_shard
from jvpsvd.errors import ArgumentError
from jvpsvd.report.analysis import Analysis, analyse
from jvpsvd.report.compared_page import compare_on_page
from jvpsvd.report.figures import (
    draw_class_matrices,
    draw_class_tree,
    draw_dimensions,
    draw_heat_map,
    draw_spectra,
)
from jvpsvd.report.files import write_data
from jvpsvd.report.page import make_page
from jvpsvd.report.stale import RECORD, begin_report, remove_stale
from jvpsvd.report.summary import summaries_of
from jvpsvd.report.tables import write_tables
from jvpsvd.report.thumbnails import Thumbnails, make_thumbnails
from jvpsvd.report.values import RunValues
from jvpsvd.report.vector_figure import draw_vectors
from jvpsvd.survey.store.files import make_folder, remove_abandoned
from jvpsvd.survey.store.layout import list_folder


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path | None
    """index.html; None where it could not be made."""
    files: tuple[Path, ...]
    """PNG, SVG and CSV."""
    missing: tuple[str, ...]
    """What could not be made, and why or what to install for it, a line each."""


def write_report(
    run: RunValues,
    shards: Shard | str | os.PathLike[str] | Sequence[Shard | str | os.PathLike[str]] = (),
    threshold: float = 1.0,
    against: RunValues | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Report:
    """Write a report: index.html, and spectra, heat map, dimensions, classes and tree as files.

    Without jinja2 there is no page, without matplotlib no PNG and SVG; the rest is written. Files
    of an earlier report that this one does not write are removed, unless somebody changed them.

    Args:
        run: The values of the run.
        shards: Those of its photos, for the thumbnails of a run with vectors: a folder, a pattern
            as `find_shards` takes it, or a list of files.
        threshold: What a value must reach to be counted.
        against: Another run that the page compares this one with: this one less the other.
        folder: Where to write, such as for a run that is read-only; None: RUN/report. One that is
            there must be empty, or hold an earlier report.

    Raises:
        ArgumentError: If the folder holds other files.
        ShardError: If a folder or a pattern holds no shards.
        DiskError: If a file cannot be written; those of an earlier report stay as they are.
        RunError: If a link, a pipe or a folder stands in the place of a file.

    Example: ``write_report(read_values(survey.open_store(Path("run")))).page``.
    """
    if folder is None:
        folder = run.store.folder / "report"
    else:
        folder = as_path("folder", folder, "a folder")
        _refuse_other_files(folder)
    found = _all_of(shards)
    title = run.store.identity.model
    make_folder(folder)
    begin_report(folder)
    remove_abandoned(folder)
    analysis = analyse(run, threshold)
    files = write_tables(analysis, folder)
    thumbnails = make_thumbnails(analysis, found)
    figures, missing = _draw(analysis, thumbnails, title, folder)
    files = sorted([*files, *figures], key=lambda file: file.name)
    page = folder / "index.html"
    try:
        compared = None if against is None else compare_on_page(against, run, threshold)
    except ArgumentError as error:
        compared, missing = None, [*missing, str(error)]
    try:
        html = make_page(analysis, thumbnails, [file.name for file in files], compared)
    except ArgumentError as error:
        remove_stale(folder, files)
        return Report(None, tuple(files), (*missing, str(error)))
    write_data(page, html.encode("utf-8", errors="replace"))
    remove_stale(folder, [*files, page])
    return Report(page, tuple(files), tuple(missing))


def _refuse_other_files(folder: Path) -> None:
    """Raise for a folder whose files are of no report: one of them may be an index.html."""
    seen = [file for file in list_folder(folder) if not file.name.startswith(".")]
    if seen and not (folder / RECORD).is_file():
        raise ArgumentError(f"{folder} holds files that are of no report; give another folder")


def _all_of(shards: Any) -> list[Shard]:
    """Return each shard that is given, of folders and patterns those that `find_shards` finds.

    A file in a list may be absent, or a folder that is named as a shard: its photos have no
    thumbnails.
    """
    if isinstance(shards, str | os.PathLike):
        return find_shards(shards)
    if not isinstance(shards, Iterable | RemoteShard):
        raise ArgumentError(f"shards={shown(shards)} must be a folder, a pattern or files")
    found: list[Shard] = []
    for given in [shards] if isinstance(shards, RemoteShard) else shards:
        shard = as_shard(given)
        if isinstance(shard, Path) and shard.is_dir() and shard.suffix != ".tar":
            found += find_shards(shard)
        else:
            found.append(shard)
    return found


def _draw(
    analysis: Analysis, thumbnails: Thumbnails, title: str, folder: Path
) -> tuple[list[Path], list[str]]:
    """Return the files of all figures that can be drawn, and why others cannot."""
    summaries, trees = summaries_of(analysis.run, analysis.threshold), analysis.trees
    layers = [depth.values.layer for depth in analysis.depths]
    estimates = [depth.estimates for depth in analysis.depths]
    one = analysis.run.store.identity.sample_word
    drawings: list[Callable[[], list[Path]]] = [
        lambda: draw_spectra(summaries, title, folder, one, analysis.threshold),
        lambda: draw_heat_map(summaries, title, folder),
        lambda: draw_dimensions(layers, estimates, title, folder, analysis.threshold),
    ]
    if trees is not None:
        drawings.append(lambda: draw_class_tree(trees, title, folder))
        drawings.append(lambda: draw_class_matrices(trees, title, folder))
    if thumbnails.with_photo:
        drawings.append(lambda: draw_vectors(thumbnails, title, folder))
    files: list[Path] = []
    missing = [analysis.without_trees] if analysis.without_trees else []
    for draw in drawings:
        try:
            files += draw()
        except ArgumentError as error:
            if str(error) not in missing:
                missing.append(str(error))
    return files, missing
