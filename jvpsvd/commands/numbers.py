"""Numbers as people write them: Python's own spelling, as 1_0 for ten, is refused."""

from __future__ import annotations

from typing import Any

import click


class _Digits(click.ParamType):
    """A number in ASCII without underscores, which Python would leave out."""

    def __init__(self, plain: click.ParamType) -> None:
        self._plain = plain
        self.name = plain.name

    def convert(self, value: Any, param: click.Parameter | None, context: Any) -> Any:
        """Return the number."""
        if isinstance(value, str) and ("_" in value or not value.isascii()):
            self.fail(f"{value!r} is not a valid {self.name}.", param, context)
        return self._plain.convert(value, param, context)


WHOLE = _Digits(click.INT)
NUMBER = _Digits(click.FLOAT)
