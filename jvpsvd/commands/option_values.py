"""Values of options of the command line, checked."""

from __future__ import annotations

import re

import click

from jvpsvd.errors import ArgumentError


def positive_number(context: click.Context, option: click.Parameter, value: float) -> float:
    """Return the value of an option, if it is positive and finite.

    Raises:
        ArgumentError: If it is not.
    """
    from jvpsvd import arguments  # which needs NumPy

    return arguments.positive_number(f"--{option.name}", value)


def share_of(text: str) -> tuple[int, int]:
    """Return (i, n) of the text "i/n", a part of a run.

    Raises:
        ArgumentError: If it is something else.

    >>> share_of("0/4")
    (0, 4)
    """
    whole = re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text)
    index, _, count = text.partition("/")
    if whole is None or not int(index) < int(count):
        raise ArgumentError(f"--share {text} is not I/N with 0 <= I < N; write 0/4, 1/4, …")
    return int(index), int(count)
