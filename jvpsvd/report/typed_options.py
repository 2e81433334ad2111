"""Options of the commands whose work a run holds, as its journals tell them."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jvpsvd.survey.progress.journal import events, journals


def seeds_of_random_weights(folder: Path) -> set[str]:
    """Return the seeds with which the weights of a run were drawn; empty if they were not."""
    return {seed for seed in values_of_option(folder, "--random-weights") if _is_seed(seed)}


def values_of_option(folder: Path, option: str) -> set[str]:
    """Return the values of an option in the commands of a run.

    Args:
        folder: The run.
        option: With its dashes.

    Example: ``values_of_option(store.folder, "--weights")``.
    """
    found = set()
    for command in commands_of(folder):
        with contextlib.suppress(ValueError):  # a quotation that a damaged line has open
            given = itertools.pairwise(shlex.split(command))
            found |= {value for word, value in given if word == option}
    return found


def commands_of(folder: Path) -> list[str]:
    """Return the commands of a run whose work began; none of work that was called from Python.

    Args:
        folder: The run.

    Example: ``commands_of(store.folder)``.
    """
    return [command for file in journals(folder) for command in _begun(events(file))]


def _begun(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield each command of a journal whose work began.

    >>> called = {"event": "called", "command": "jvpsvd run --random-weights 7 --out a"}
    >>> list(_begun([called])), list(_begun([called, {"event": "began"}]))
    ([], ['jvpsvd run --random-weights 7 --out a'])
    """
    command = None
    for event in lines:
        if event.get("event") == "called":
            command = event.get("command")
        elif event.get("event") == "began" and isinstance(command, str):
            yield command


def _is_seed(text: str) -> bool:
    return re.fullmatch("-?[0-9]{1,20}", text) is not None
