"""How many Lanczos steps to ask of solvers that are told steps and not a tolerance."""

from __future__ import annotations

import math

_LEAST = 300


def lanczos_steps(k: int, tol: float, short: int) -> int:
    """Return steps for k triplets: half a k more for each decade of the tolerance; 300 at least.

    Small problems are given all the steps there are, which cost nothing. At tol 1e-4 and large k
    it is 3k + 20, about what block Golub–Kahan needs where spectra are flat; with each rung of the
    runner's ladder (a tenth of the tolerance) there are k/2 more.

    >>> lanczos_steps(100, 1e-4, 10**6), lanczos_steps(100, 1e-4, 250)
    (320, 250)
    """
    decades = max(0.0, -math.log10(tol))
    return min(short, max(_LEAST, math.ceil(k * (1 + decades / 2)) + 20))
