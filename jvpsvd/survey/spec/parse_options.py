"""Values of a spec as they are written on a command line."""

from __future__ import annotations

import re

from jvpsvd.errors import ArgumentError


def parse_share(text: str) -> tuple[int, int]:
    """Return part I of N parts, counted from 0.

    Raises:
        ArgumentError: If it is no part.

    >>> parse_share("0/4")
    (0, 4)
    """
    whole = re.fullmatch("[0-9]{1,9}/[0-9]{1,9}", text)
    index, _, count = text.partition("/")
    if whole is None or not int(index) < int(count):
        raise ArgumentError(f"--share {text} is not I/N with 0 <= I < N; write 0/4, 1/4, …")
    return int(index), int(count)


def parse_vectors(text: str | None) -> bool | int | None:
    """Return how many leading vectors are kept; True for all of them.

    Raises:
        ArgumentError: If it is neither a number nor "all".

    >>> parse_vectors("4"), parse_vectors("all")
    (4, True)
    """
    if text is None:
        return None
    if text == "all":
        return True
    if not re.fullmatch("[0-9]{1,9}", text):
        raise ArgumentError(f"--vectors {text} is no number; write --vectors, or --vectors 4")
    return int(text)
