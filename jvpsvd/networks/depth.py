"""A depth of a network, as runs remember it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Depth:
    """A depth at which a network can be cut."""

    name: str
    """Module name, with @call where the module is called more than once, or module and function."""
    kind: str
    """Class of the module, or "function"."""
    shape: tuple[int, ...]
    """Shape of its output at the example input."""
    part: bool = False
    """Whether it is one of the tensors in a tuple, dict or dataclass that was returned."""

    @property
    def numel(self) -> int:
        """Number of units: the rows of the Jacobian to this depth."""
        return math.prod(self.shape)
