"""Sizes of memory: bytes, and text with a unit."""

from __future__ import annotations

import re

from jvpsvd.errors import ArgumentError

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_memory(memory: float | str) -> int:
    """Return a number of bytes, from itself or from text with a binary unit.

    >>> parse_memory("4GiB"), parse_memory("512 MB"), parse_memory(1e3)
    (4294967296, 536870912, 1000)
    """
    if isinstance(memory, float):
        if not memory.is_integer():  # no number of bytes; 3.5 may be meant in GiB
            raise ArgumentError(f"memory={memory!r} is not a size; write bytes or text like '4GiB'")
        memory = int(memory)
    if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0:
        return memory
    number = r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([kmgt]?)(?:i?b)?\s*"
    match = re.fullmatch(number, str(memory).lower())
    if match is None or float(match[1]) <= 0 or isinstance(memory, int):
        raise ArgumentError(f"memory={memory!r} is not a size; write bytes or text like '4GiB'")
    return max(1, int(float(match[1]) * _UNITS[match[2]]))


def in_words(size: int) -> str:
    """Return a size as text, with a unit that leaves digits before the point.

    >>> in_words(3 << 29), in_words(5000)
    ('1.5 GiB', '4.9 KiB')
    """
    for exponent, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 1 << exponent:
            return f"{size / (1 << exponent):.1f} {unit}"
    return f"{size} bytes"
