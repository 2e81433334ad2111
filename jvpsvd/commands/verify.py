"""`jvpsvd verify` and `jvpsvd run --status`: what is there of a run."""

from __future__ import annotations

import click

from jvpsvd import survey
from jvpsvd.commands.printing import as_typed, say
from jvpsvd.text_table import count_noun


def verify_run(store: survey.Store) -> bool:
    """Print what is missing or wrong, a line each, and the counts; whether nothing is."""
    found = survey.verify(store)
    for problem in found.problems:
        click.echo(problem)  # names and paths, to be copied
    say(
        f"{count_noun(found.values, 'row')} with values "
        f"({count_noun(found.unconverged, 'triplet')} not certified), "
        f"{found.failures} with a reason, {count_noun(len(found.problems), 'problem')}"
    )
    if found.unchecked:
        say(
            f"{count_noun(found.unchecked, 'row')} without a checksum (of an older jvpsvd's run): "
            "changed values are noticed only where they are impossible"
        )
    if found.problems:
        click.echo(f"how far it is: {as_typed('jvpsvd', 'run', '--status', store.folder)}")
    return not found.problems


def show_status(store: survey.Store) -> bool:
    """Print how far a run is, and how to go on; whether its manifest can be read."""
    found = survey.status(store)
    for line in found.lines():
        say(line)
    for line in found.resume_lines():
        click.echo(line)  # a command and a path, to be copied
    return not found.problem
