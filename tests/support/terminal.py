"""A terminal of a given width, which stdout is while a test prints."""

import os
import re
import sys
import threading
from contextlib import contextmanager

WIDTHS = [60, 80, 120, 200]


class Terminal:
    """A pseudo-terminal; `text` is what was printed to it, once it is closed."""

    def __init__(self):
        self._master, self.slave = os.openpty()
        self._read = []
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self):
        while True:
            try:
                data = os.read(self._master, 1 << 16)
            except OSError:  # closed at the other end
                return
            if not data:
                return
            self._read.append(data)

    def close(self):
        self._thread.join()
        os.close(self._master)
        self.text = b"".join(self._read).decode().replace("\r\n", "\n")


@contextmanager
def terminal(width, monkeypatch, stream="stdout"):
    """Let stdout, or another stream, be a terminal of so many columns."""
    monkeypatch.setenv("COLUMNS", str(width))
    made, before = Terminal(), getattr(sys, stream)
    try:
        with os.fdopen(made.slave, "w", encoding="utf-8") as file:
            setattr(sys, stream, file)
            yield made
    finally:
        setattr(sys, stream, before)
        made.close()


def screen(text, width):
    """Return the lines that a terminal of so many columns shows after this text."""
    lines, row, column = [""], 0, 0
    for sign in re.findall(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b])", text):
        number, command, letter = sign
        if command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            lines[row] = ""
        elif letter == "\r":
            column = 0
        elif letter == "\n":
            row, column = row + 1, 0
        elif letter:
            if column == width:  # a full line is broken by the next letter
                row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
            lines[row] = lines[row].ljust(column)[:column] + letter + lines[row][column + 1 :]
            column += 1
        lines += [""] * (row + 1 - len(lines))
    return [line.rstrip() for line in lines]
