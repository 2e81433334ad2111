"""Lines on the terminal: sentences broken at spaces, paths whole, plain text in a pipe."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

import click

from jvpsvd.text_table import TextTable, terminal_width, wrapped


def show(table: TextTable) -> None:
    """Print a table for the terminal that stdout is, or in full."""
    click.echo(table.fitted(terminal_width()))


def say(sentence: str) -> None:
    """Print a sentence; on a terminal it is broken at spaces only."""
    width = terminal_width()
    for line in [sentence] if width is None else wrapped(sentence, width):
        click.echo(line)


def say_paths(what: str, paths: Iterable[Path | str]) -> None:
    """Print what lies where, a path a line, each whole."""
    for path in paths:
        click.echo(f"{what}: {path}")


def as_typed(*words: str | Path) -> str:
    """Return a command as a shell takes it.

    >>> as_typed("jvpsvd", "verify", Path("my run"))
    "jvpsvd verify 'my run'"
    """
    return shlex.join(map(str, words))
