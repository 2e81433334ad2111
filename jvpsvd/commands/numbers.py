"""Numbers as people write them: Python's own spelling, as 1_0 for ten, is refused."""

from __future__ import annotations

import re

import click


def integer(value: str | int) -> int:
    """Return a whole number that an option was given.

    >>> integer("10")
    10
    """
    if not re.fullmatch("[+-]?[0-9]+", str(value)):
        raise click.BadParameter(f"{value!r} is not a valid integer.")
    return int(value)


def number(value: str | float) -> float:
    """Return a number that an option was given.

    >>> number("1e-5")
    1e-05
    """
    text = str(value)
    if "_" not in text and text.isascii():
        try:
            return float(text)
        except ValueError:
            pass
    raise click.BadParameter(f"{value!r} is not a valid float.")
