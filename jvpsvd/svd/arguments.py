"""Numbers as a caller gives them: Python's own or NumPy's scalars, never bools."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch

from jvpsvd.errors import ArgumentError

# (tolerances that hardly any solve meets, what nearly all do meet), in units of eps. At 0.5, 1, 2,
# 4 and 8 eps 0, 6, 16, 63 and 77 of 77 float32 solves by Golub–Kahan converged, by the exact method
# 0, 17, 51, 77 and 77; in float64 0, 0, 0, 7, 16 of 66 and 0, 0, 5, 18, 35
# (`python -m benchmarks rounding`).
_REACH = {torch.float32: (1.0, 8.0), torch.float64: (2.0, 50.0)}


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


def out_of_reach(tol: float, dtype: torch.dtype) -> str | None:
    """Return what to say of a tolerance that rounding hardly ever lets residuals meet.

    None, if it is not such a one.

    >>> print(out_of_reach(1e-8, torch.float32))
    tol=1e-08 is below the rounding of float32, and most residuals will stay above it; ask for
    1e-06 or use float64
    >>> out_of_reach(1e-8, torch.float64) is out_of_reach(1e-6, torch.float32) is None
    True
    """
    eps = torch.finfo(dtype).eps
    hardly, mostly = (times * eps for times in _REACH[dtype])
    if tol >= hardly:
        return None
    wider = "" if dtype == torch.float64 else " or use float64"
    return (
        f"tol={tol:g} is below the rounding of {str(dtype).removeprefix('torch.')}, and most "
        f"residuals will stay above it; ask for {mostly:.0e}{wider}"
    )


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
