"""Public names of before, which still work, with a warning that says what to write now."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any


def find_renamed(module: str, name: str, names: Mapping[str, str]) -> Any:
    """Return what a module gives for a name of before.

    Args:
        module: The module that was asked.
        name: The name that it does not have.
        names: The name of today for each name of before.

    Raises:
        AttributeError: If the name is none of these.
    """
    if name not in names:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    message = f"{module}.{name} is now {module}.{names[name]}"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return getattr(sys.modules[module], names[name])
