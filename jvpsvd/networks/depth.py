"""A depth of a network, as runs remember it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def with_values(every: Sequence[Depth], k: int, n: int) -> list[Depth]:
    """Return the depths that have k singular values, all of them if none has.

    Args:
        every: Depths.
        k: How many.
        n: Entries of what they are differentiated by.

    >>> [depth.name for depth in with_values([Depth("0", "", (4,)), Depth("1", "", (2,))], 3, 9)]
    ['0']
    """
    return [depth for depth in every if min(depth.numel, n) >= k] or list(every)
