"""Tables of photos that are solved together on a card, from the rows of the part "gpu"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.publish.tables import table

_PHASES = ("products", "orthogonalisation", "projected problem", "vectors", "checks")


def together_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the rows say of photos together: tables, or nothing where there are no rows."""
    lines: list[str] = []
    together = [row for row in rows if row["kind"] == "together"]
    steps = [row for row in rows if row["kind"] == "step"]
    decompositions = [row for row in rows if row["kind"] == "decompositions"]
    if together:
        one = together[0]
        head = ["photos together", "seconds a photo", "products", "blocks of", "checks"]
        body = [
            [
                str(row["photos"]),
                f"{row['seconds']['median']:.3g}",
                str(row["products"]),
                str(row["block_size"]),
                str(row["checks"]),
                *(f"{1e3 * row['phases'].get(phase, 0.0):.0f} ms" for phase in _PHASES),
            ]
            for row in together
        ]
        lines += [
            "",
            f"Photos solved together, `{one['problem'].split('/', 1)[1].rpartition('/')[0]}`, k = "
            f"{one['k']}, tol {one['tol']:g}, values alone; milliseconds are of one photo:",
            "",
            *table([*head, *_PHASES], body),
        ]
    if steps:
        head = ["photos", "a step", "kernels", "waiting for the card", "waits", "launches"]
        body = [
            [
                str(row["photos"]),
                *(f"{1e3 * row[name]:.2f} ms" for name in ("seconds", "kernels", "waiting")),
                *(f"{row[name]:.0f}" for name in ("waits", "launches")),
            ]
            for row in steps
        ]
        lines += ["", f"One step of blocks of {steps[0]['block_size']}:", "", *table(head, body)]
    for row in decompositions:
        lines += [
            *([""] if row is decompositions[0] else []),
            f"- {row['photos']} projected problems of {row['rows']} rows: "
            f"{1e3 * row['on_device']:.1f} ms each on the card, {1e3 * row['on_threads']:.1f} ms "
            "by threads of the CPU",
        ]
    graphs = [row for row in rows if row["kind"] == "graph" and row["ratio"] is not None]
    if graphs:
        head = ["product", "photos", "vectors of each", "called", "as a CUDA graph", "ratio", ""]
        body = [
            [
                row["problem"].rpartition("/")[2],
                *(str(row[name]) for name in ("photos", "block_size")),
                *(f"{1e3 * row[name]:.2f} ms" for name in ("seconds", "replay_seconds")),
                f"{row['ratio']:.2f}",
                "right" if row["right"] else "wrong",
            ]
            for row in graphs
        ]
        lines += ["", "Products of a block:", "", *table(head, body)]
    return lines
