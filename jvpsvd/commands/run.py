"""What `jvpsvd run` and `jvpsvd report` print and write once rows are there."""

from __future__ import annotations

from pathlib import Path

import click

from jvpsvd.commands.compare import show_comparison
from jvpsvd.commands.printing import as_typed, say, say_paths, show
from jvpsvd.data import Shard, find_shards
from jvpsvd.errors import ArgumentError, RunError
from jvpsvd.report import RunValues, read_values, summaries_of, table, write_report
from jvpsvd.survey import Outcome, Spec, Store, open_store
from jvpsvd.survey.store.rows import PASSING
from jvpsvd.text_table import count_noun


def show_run(outcome: Outcome, spec: Spec, threshold: float, other: str | None = None) -> None:
    """Print the table of a run that has ended, write its page, and say what to do next.

    Args:
        outcome: What the run came to.
        spec: What was asked for.
        threshold: What a value must reach to be counted.
        other: The folder of a run to compare it with.
    """
    store, one = outcome.store, outcome.store.identity.sample_word
    values = read_values(store)
    if values.unreadable:
        raise RunError(values.unreadable[0])
    show(table(store, summaries_of(values, threshold)))
    failed = f"{outcome.failed} failed, " if outcome.failed else ""
    say(
        f"{count_noun(outcome.computed, one)} computed, {failed}{outcome.skipped} finished before, "
        f"{count_noun(outcome.failures, 'row')} failed"
    )
    if spec.share == (0, 1):
        where = spec.shards if isinstance(spec.shards, str) else None
        write_page(values, threshold, where, other, None, listed=False)
    else:
        click.echo(f"page: {as_typed('jvpsvd', 'report', store.folder)}")
    click.echo(f"check: {as_typed('jvpsvd', 'verify', store.folder)}")
    if any(row.status in PASSING for row in values.failures):
        say("continue: the same command tries again what failed for too little memory or the like")
    if other is not None:
        show_comparison_of_run(other, spec, threshold)


def show_comparison_of_run(other: str, spec: Spec, threshold: float) -> None:
    """Print how a run that has ended differs from another, or why that cannot be said."""
    try:
        show_comparison(Path(other), Path(spec.out), threshold)
    except ArgumentError as error:  # the run itself has ended well
        click.echo(f"jvpsvd: {error}", err=True)


def show_report(
    store: Store,
    threshold: float,
    shards: str | None,
    other: str | None = None,
    folder: str | None = None,
) -> None:
    """Print the table of a run, finished or not, and write its page, figures and tables."""
    values = read_values(store)
    show(table(store, summaries_of(values, threshold)))
    write_page(values, threshold, shards, other, folder, listed=True)


def write_page(
    values: RunValues,
    threshold: float,
    shards: str | None,
    other: str | None,
    folder: str | None,
    *,
    listed: bool,
) -> None:
    """Write the report of a run, and say where it lies, a path a line."""
    own = values.store.folder / "shards"
    where = shards or (str(own) if any(own.glob("*.tar")) else None)
    photos: tuple[Shard, ...] = tuple(find_shards(where)) if where else ()
    against = None if other is None else read_values(open_store(Path(other)))
    out = None if folder is None else Path(folder)
    written = write_report(values, photos, threshold, against, out)
    for line in written.missing:
        click.echo(f"not made: {line}", err=True)
    figures = [file for file in written.files if file.suffix == ".png"]
    if listed:
        say_paths("file", written.files)
    elif written.page is None:
        say_paths("figure", figures)
    if written.page is not None:
        say_paths("page", [Path(written.page)])
