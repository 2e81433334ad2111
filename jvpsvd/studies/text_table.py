"""A table of text, with lines around its cells."""

from __future__ import annotations

from collections.abc import Sequence


def draw_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is aligned left and whose others are aligned right.

    >>> print(draw_table("two depths", ["depth", "σ1"], [["0", "3.1"], ["output", "12"]]))
    two depths
    ┏━━━━━━━━┳━━━━━┓
    ┃ depth  ┃  σ1 ┃
    ┡━━━━━━━━╇━━━━━┩
    │ 0      │ 3.1 │
    │ output │  12 │
    └────────┴─────┘
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str], wall: str) -> str:
        (first, width), *others = zip(cells, widths, strict=True)
        padded = [first.ljust(width), *(cell.rjust(width) for cell, width in others)]
        return f"{wall} " + f" {wall} ".join(padded) + f" {wall}"

    def rule(left: str, across: str, middle: str, right: str) -> str:
        return left + middle.join(across * (width + 2) for width in widths) + right

    return "\n".join(
        [
            title,
            rule("┏", "━", "┳", "┓"),
            line(headings, "┃"),
            rule("┡", "━", "╇", "┩"),
            *(line(row, "│") for row in rows),
            rule("└", "─", "┴", "┘"),
        ]
    )
