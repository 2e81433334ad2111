"""Tables of text that fit a terminal, in which no number and no name is ever cut."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "
_PROSE = 120  # longer lines of sentences are hard to read
_LESS = "a wider terminal has more columns, and a pipe has all, as in: jvpsvd … | less -S"


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    note: str = ""
    """What the column holds, in words: they stand below a table that has the column."""
    drop: int = 0
    """When it gives way on a narrow terminal: 1 first, then 2, …; 0: never."""
    left: bool = False
    """Whether its cells begin at one edge, as names do; numbers end at one."""


@dataclass(frozen=True)
class TextTable:
    """Rows of text under headings, with a title above and notes below.

    Where the columns do not fit, those with the smallest `drop` are left out, and a line below the
    table says which. Where the rest does not fit either, each row is a paragraph that holds every
    cell.

    >>> columns = [Column("depth", left=True), Column("s", "s: seconds", drop=1), Column("σ1")]
    >>> table = TextTable("net", columns, [["output", "0.02", "106.9"]])
    >>> print(table.fitted(None))
    net
    depth      s     σ1
    ───────────────────
    output  0.02  106.9
    s: seconds
    >>> print(table.fitted(15))
    net
    depth      σ1
    ─────────────
    output  106.9
    not shown at 15
    columns: s; a
    wider terminal
    has more
    columns, and a
    pipe has all,
    as in: jvpsvd …
    | less -S
    >>> print(table.fitted(10))
    net
    output
      s 0.02
      σ1 106.9
    s: seconds
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    """A cell for each column; the first names the row."""
    subtitle: str = ""
    """What the table holds, in words."""
    notes: Sequence[str] = ()
    """Sentences below the table."""

    def __str__(self) -> str:
        return self.fitted(terminal_width())

    def fitted(self, width: int | None) -> str:
        """Return the table for a terminal of so many columns; None: as wide as it is.

        Only a single name, number or note that is wider than the terminal makes a longer line.
        """
        prose = _PROSE if width is None else min(width, _PROSE)
        both = f"{self.title}, {self.subtitle}"
        if not self.subtitle:
            found = [self.title]
        elif cell_width(both) <= prose:
            found = [both]
        else:
            found = [self.title, *wrapped(self.subtitle, prose)]
        shown = self._fitting(width)
        dropped = [] if shown is None else [i for i in range(len(self.columns)) if i not in shown]
        if shown is None:
            found += self._paragraphs(width or _PROSE)
        else:
            found += self._lines(shown)
        there = range(len(self.columns)) if shown is None else shown
        for note in [*(self.columns[i].note for i in there), *self.notes]:
            found += wrapped(note, prose)
        if dropped:
            names = ", ".join(self.columns[i].heading for i in sorted(dropped, key=self._drop))
            found += wrapped(f"not shown at {width} columns: {names}; {_LESS}", prose)
        return "\n".join(found)

    def _drop(self, index: int) -> int:
        return self.columns[index].drop

    def _fitting(self, width: int | None) -> list[int] | None:
        """Return the columns that fit; None where not even those fit that are never left out."""
        shown = list(range(len(self.columns)))
        if width is None:
            return shown
        widths = self._widths()
        order = sorted((i for i in shown if self.columns[i].drop), key=self._drop)
        while sum(widths[i] + len(_GAP) for i in shown) - len(_GAP) > width:
            if not order:
                return None
            shown.remove(order.pop(0))
        return shown

    def _widths(self) -> list[int]:
        return [
            max(cell_width(text) for text in (column.heading, *(row[i] for row in self.rows)))
            for i, column in enumerate(self.columns)
        ]

    def _lines(self, shown: Sequence[int]) -> list[str]:
        widths = self._widths()
        headings = [column.heading for column in self.columns]
        lines = [
            _GAP.join(_pad(row[i], widths[i], left=self.columns[i].left) for i in shown).rstrip()
            for row in (headings, *self.rows)
        ]
        rule = "─" * (sum(widths[i] + len(_GAP) for i in shown) - len(_GAP))
        return [lines[0], rule, *lines[1:]]

    def _paragraphs(self, width: int) -> list[str]:
        """Return each row as its name and pairs of heading and cell; no pair is broken."""
        found: list[str] = []
        for name, *cells in self.rows:
            found.append(name)
            line = ""
            for column, cell in zip(self.columns[1:], cells, strict=True):
                pair = f"{_GAP}{column.heading} {cell}" if cell else ""
                if line and cell_width(line + pair) > width:
                    found.append(line)
                    line = ""
                line += pair
            found += [line] if line else []
        return found


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted_lines(text: str) -> str:
    """Return lines of sentences for the terminal that stdout is; as they are where it is none."""
    width = terminal_width()
    if width is None:
        return text
    return "\n".join("\n".join(wrapped(line, width)) for line in text.splitlines())


def wrapped(text: str, width: int) -> list[str]:
    """Return a sentence in lines, broken at spaces only.

    >>> wrapped("see /a/long-path", 9)
    ['see', '/a/long-path']
    """
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def cell_width(text: str) -> int:
    """Return how many columns of a terminal a text takes.

    >>> cell_width("σ₁"), cell_width("写真")
    (2, 4)
    """
    return sum(_width(one) for one in text)


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _pad(text: str, width: int, *, left: bool) -> str:
    space = " " * (width - cell_width(text))
    return text + space if left else space + text


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> count_noun(1, "photo"), count_noun(0, "row"), count_noun(2, "class", "classes")
    ('1 photo', '0 rows', '2 classes')
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Return a noun with its article.

    >>> with_article("photo"), with_article("input")
    ('a photo', 'an input')
    """
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def significant(value: float, digits: int = 4) -> str:
    """Return a number in so many significant digits, without an exponent where it can be read so.

    >>> significant(0.0234, 2), significant(11.234, 2), significant(1234.6, 2), significant(0.0)
    ('0.023', '11', '1235', '0')
    >>> significant(99.66666, 4), significant(3e-7, 2), significant(12.0, 4)
    ('99.67', '3e-07', '12')
    """
    if value and not 1e-4 <= abs(value) < 1e15:
        return f"{value:.{digits}g}"
    whole = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    return f"{value:.0f}" if whole >= digits else f"{float(f'{value:.{digits}g}'):.15g}"


def at_most(value: float) -> str:
    """Return a bound in one digit that is no smaller than the number.

    >>> at_most(1.04e-6), at_most(9.6e-6), at_most(2e-7), at_most(0.0)
    ('2e-06', '1e-05', '2e-07', '0e+00')
    """
    text = f"{value:.0e}"
    if float(text) < value:
        digit, exponent = text.split("e")
        text = f"{int(digit) + 1}e{exponent}"
    return f"{float(text):.0e}"


def brief_seconds(seconds: float) -> str:
    """Return a time in seconds with the digits that mean something.

    >>> [brief_seconds(one) for one in (0.0213, 0.2, 4.96, 5.04, 135.2)]
    ['0.021', '0.2', '5.0', '5.0', '135']
    """
    if seconds < 1:
        return significant(seconds, 2)
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}"
