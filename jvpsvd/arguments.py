"""Numbers as a caller gives them: Python's own or NumPy's scalars, never bools."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from jvpsvd.errors import ArgumentError


def whole_number(
    name: str, value: Any, low: int, high: int | None = None, high_is: str = ""
) -> int:
    """Return `value` as an int, if it is a whole number from `low` to `high`.

    Args:
        name: Of the argument, for the message.
        value: What the caller gave.
        low: Smallest value allowed.
        high: Largest value allowed; None: no limit.
        high_is: What the largest value is, in words.

    Raises:
        ArgumentError: If it is not.

    >>> whole_number("k", 7, 1, 6, "min(m, n)")
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: k=7 must be a whole number from 1 to min(m, n) = 6
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        most = f"{high_is} = {high}" if high_is else f"{high}"
        bounds = f"at least {low}" if high is None else f"from {low} to {most}"
        raise ArgumentError(f"{name}={value!r} must be a whole number {bounds}")
    return int(value)


def proper_fraction(name: str, value: Any) -> float:
    """Return `value` as a float, if it lies between 0 and 1, both excluded.

    Raises:
        ArgumentError: If it does not, or is no number.

    >>> proper_fraction("tol", 1.5)
    Traceback (most recent call last):
    jvpsvd.errors.ArgumentError: tol=1.5 must be a number that lies between 0 and 1
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and 0 < value < 1):
        raise ArgumentError(f"{name}={value!r} must be a number that lies between 0 and 1")
    return float(value)
