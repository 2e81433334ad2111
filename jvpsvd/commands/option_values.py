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
