"""The number of Lanczos steps for solvers that take one instead of a tolerance."""

from __future__ import annotations

import math

_LEAST = 300


def choose_lanczos_steps(k: int, tol: float, short: int) -> int:
    """Return k + 20 steps and k/2 more for each decade of the tolerance, but 300 at least.

    Small problems take all steps, which cost nothing. At tol 1e-4 and large k these are 3k + 20,
    about what block Golub–Kahan needs for flat spectra; each tighter tolerance (by a tenth) adds
    k/2.

    >>> choose_lanczos_steps(100, 1e-4, 10**6), choose_lanczos_steps(100, 1e-4, 250)
    (320, 250)
    """
    decades = max(0.0, -math.log10(tol))
    return min(short, max(_LEAST, math.ceil(k * (1 + decades / 2)) + 20))
