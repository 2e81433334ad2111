"""The report of a run, written: the page, and its figures and tables as files beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jvpsvd.data import Shard
from jvpsvd.errors import ArgumentError
from jvpsvd.report.class_trees import class_trees
from jvpsvd.report.classes import class_rows, find_classes
from jvpsvd.report.estimates import estimate
from jvpsvd.report.figures import draw_class_tree, draw_dimensions, draw_heat_map, draw_spectra
from jvpsvd.report.page import make_page
from jvpsvd.report.stale import remove_stale
from jvpsvd.report.summary import summaries_of
from jvpsvd.report.tables import write_tables
from jvpsvd.report.thumbnails import browse
from jvpsvd.report.values import RunValues
from jvpsvd.survey.store.files import make_folder, write_whole


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path | None
    """index.html; None where it could not be made."""
    files: tuple[Path, ...]
    """PNG, SVG and CSV."""
    missing: tuple[str, ...]
    """What could not be made and what to install for it, a line each."""


def write_report(run: RunValues, shards: Sequence[Shard] = ()) -> Report:
    """Write RUN/report: index.html, and spectra, heat map, dimensions, classes and tree as files.

    Without plotly there is no page, without matplotlib no PNG and SVG; the rest is written. Files
    of an earlier report that this one does not write are removed, unless somebody changed them.

    Args:
        run: The rows of the run.
        shards: Where its photos lie, for the thumbnails of a run with vectors.

    Raises:
        OSError: If the folder cannot be written.
        RunError: If a link, a pipe or a folder stands in the place of a file.

    Example: ``write_report(read_values(survey.open_store(Path("run")))).page``.
    """
    folder = run.store.folder / "report"
    make_folder(folder)
    classes = find_classes(run.samples)
    floor = run.store.identity.tol
    estimates = [estimate(depth, floor) for depth in run.depths]
    rows = [
        class_rows(depth, classes, found)
        for depth, found in zip(run.depths, estimates, strict=True)
    ]
    trees = class_trees(run, classes)
    tree = None if isinstance(trees, str) else trees
    files = write_tables(run, classes, rows, estimates, tree, folder)
    missing: list[str] = []
    summaries, title = summaries_of(run), run.store.identity.model
    drawings: list[Callable[[], list[Path]]] = [
        lambda: draw_spectra(summaries, title, folder),
        lambda: draw_heat_map(summaries, title, folder),
        lambda: draw_dimensions([d.layer for d in run.depths], estimates, title, folder),
    ]
    if tree is not None:
        drawings.append(lambda: draw_class_tree(tree, title, folder))
    for draw in drawings:
        try:
            files += draw()
        except ArgumentError as error:
            if str(error) not in missing:
                missing.append(str(error))
    files.sort(key=lambda file: file.name)
    page = folder / "index.html"
    try:
        html = make_page(
            run, classes, rows, estimates, trees, browse(run, classes, shards),
            [file.name for file in files],
        )  # fmt: skip
    except ArgumentError as error:
        remove_stale(folder, files)
        return Report(None, tuple(files), (*missing, str(error)))
    data = html.encode("utf-8", errors="replace")
    write_whole(page, lambda aside: aside.write_bytes(data))
    remove_stale(folder, [*files, page])
    return Report(page, tuple(files), tuple(missing))
