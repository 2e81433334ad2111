"""Counts by `spectral_density` beside the laws of large random matrices.

    python -m benchmarks laws [--size 10000] [--probes 16] [--steps 40]

No singular value is computed: the half rotation, fifty times as large as the others, would be a
matrix of 1 TB at the default size. A row has the law's count of σ ≥ τ, the estimate with its bounds
and its standard error, whether the 95 % interval holds the law (up to 1), and the seconds of the
whole matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from benchmarks.problems.random_matrices import LAWS
from benchmarks.publish.tables import table
from jvpsvd import spectral_density

THRESHOLDS = (0.2, 0.5, 0.9, 1.2)
_LARGER = 50  # the half rotation is never written down


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks laws",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args(arguments)
    rows = []
    for name, make in LAWS.items():
        n = options.size * (_LARGER if name == "half of a rotation" else 1)
        matrix = make(n, 0)
        began = time.perf_counter()
        spectrum = spectral_density(matrix.operator, options.probes, options.steps)
        seconds = time.perf_counter() - began
        for threshold in THRESHOLDS:
            if (law := n * matrix.share_above(threshold)) <= 0:
                continue
            found = spectrum.count(threshold)
            low, high = found.interval()
            held = "yes" if low - 1 <= law <= high + 1 else "no"
            bounds = f"{found.low:,.0f} to {found.high:,.0f}"
            cells = [f"{law:,.0f}", f"{found.value:,.0f}", bounds, f"{found.standard_error:,.0f}"]
            rows.append([name, f"{n:,}", f"{threshold}", *cells, held, f"{seconds:.0f}"])
    heads = ["matrix", "values", "τ", "law", "count", "bounds", "standard error", "held", "s"]
    print("\n".join(table(heads, rows)))
    return 0
