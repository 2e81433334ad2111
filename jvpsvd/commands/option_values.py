"""Values of options of the command line, checked."""

from __future__ import annotations

import click


def positive_number(context: click.Context, option: click.Parameter, value: float) -> float:
    """Return the value of an option, if it is positive and finite.

    Raises:
        ArgumentError: If it is not.
    """
    from jvpsvd import arguments  # which needs NumPy

    return arguments.positive_number(f"--{option.name}", value)


def names(context: click.Context, option: click.Parameter, value: str | None) -> list[str] | None:
    """Return the names that an option was given, with commas between them; None as it is."""
    return None if value is None else [part.strip() for part in value.split(",") if part.strip()]
