"""`jvpsvd compare`: two runs beside each other."""

from __future__ import annotations

from pathlib import Path

import click

from jvpsvd.commands.printing import show
from jvpsvd.errors import ArgumentError
from jvpsvd.report import compare_runs, comparison_table, differing_fields, read_values
from jvpsvd.survey import open_store


def show_comparison(first: Path, second: Path, threshold: float) -> None:
    """Print what differs between two runs, and by how much at each depth."""
    before, after = (read_values(open_store(folder)) for folder in (first, second))
    found = compare_runs(before, after, threshold)
    if not found:
        raise ArgumentError(
            f"{first} and {second} have no values at the same depth yet; 'jvpsvd run --status RUN' "
            "tells how far each is"
        )
    click.echo(f"first: {first}")
    click.echo(f"second: {second}")
    for line in differing_fields(before, after):
        click.echo(line)
    show(comparison_table(found, "second less first", before.store.identity.sample_word))
