"""Find what several depths of a network hide from automatic differentiation.

What it does not see of a function, it takes for zero. So products are compared with differences of
the network itself.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from jvpsvd.errors import DerivativeError, JvpsvdError
from jvpsvd.networks.to_depths import ToDepths, to_one_depth
from jvpsvd.operators import BatchedMap, LinearMap
from jvpsvd.operators.differentiate import find_difference
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.obstacles import find_obstacles

logger = logging.getLogger(__name__)

Map = TypeVar("Map", LinearMap, BatchedMap)


class HiddenParts:
    """Compares the products of several depths with differences of the network.

    Those of a depth are compared at one input. What is hidden may lie flat there, so that they are
    compared at all others, too, where the network holds something that may hide a part.

    Args:
        run: The map to the depths.
        layers: Their names, for the log.
    """

    def __init__(self, run: ToDepths, layers: Sequence[str]) -> None:
        self._run, self._layers = run, layers
        self._told: set[int] = set()
        """Depths of which a line in the log says that products differ from the network itself."""
        self.forget()

    def forget(self) -> None:
        """Begin anew: another mask, say, may let the network hide what it did not before."""
        self._compared: set[int] = set()
        """Depths whose products were compared at an input."""
        self._obstacles: bool | None = None
        """Whether the network holds what may hide a part of its derivative; None: not known."""

    def anew(self) -> HiddenParts:
        """Return the same with nothing compared, which repeats no line of the log."""
        other = copy.copy(self)
        other.forget()
        return other

    def put_errors(
        self, derivatives: Sequence[Map | JvpsvdError], z: Tensor, recorded: Collection[int]
    ) -> tuple[Map | JvpsvdError, ...]:
        """Return the derivatives, with an error in the place of each that inference mode hides.

        A part that is hidden otherwise, as by a detach, is told once in the log.

        Args:
            derivatives: That to each depth at z, or at a batch that begins with z.
            z: The point.
            recorded: Which of them are recorded, and so run the same operations at every point.
        """
        together = _EvaluatedOnce(self._run)
        found = list(derivatives)
        for depth, J in enumerate(derivatives):
            if isinstance(J, JvpsvdError) or not bool(J.value.isfinite().all()):
                continue  # nothing can be compared there
            if depth not in self._compared or depth not in recorded or self._has_obstacles(z):
                found[depth] = self._compare(depth, J, partial(together, depth))
        return tuple(found)

    def _compare(
        self, depth: int, J: Map, evaluate: Callable[[Tensor], Tensor]
    ) -> Map | DerivativeError:
        try:
            message = find_difference(to_one_depth(self._run, depth), J, evaluate=evaluate)
        except DerivativeError as error:
            return error
        self._compared.add(depth)
        if message is not None and depth not in self._told:
            logger.warning("%s: %s", self._layers[depth], message)
            self._told.add(depth)
        return J

    def _has_obstacles(self, z: Tensor) -> bool:
        if self._obstacles is None:
            self._obstacles = bool(find_obstacles(prepare(self._run), z))
        return self._obstacles


class _EvaluatedOnce:
    """Each of several depths at a point, at which all of them are evaluated when one is."""

    def __init__(self, run: ToDepths) -> None:
        self._run = run
        self._values: list[tuple[Tensor, tuple[Tensor, ...]]] = []

    def __call__(self, depth: int, z: Tensor) -> Tensor:
        for point, values in self._values:
            if torch.equal(point, z):
                return values[depth]
        try:
            values = self._run(z)
        except Exception:  # behind this depth, it may be
            return self._run(z, [depth])[0]
        self._values.append((z, values))
        return values[depth]
