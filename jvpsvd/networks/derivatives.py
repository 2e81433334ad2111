"""Derivatives of a network to several depths, recorded once and replayed at every input.

What of an input is held fixed, such as a mask, is a constant of the recording. So each value of it
has a recording of its own, unless the network itself gives the same with both, as it mostly does
with other token ids behind their embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp
from torch.utils._pytree import tree_map_only

from jvpsvd.errors import DerivativeError, JvpsvdError, TraceError
from jvpsvd.networks.depths import layer_maps
from jvpsvd.networks.layer_map import is_same_input
from jvpsvd.operators import (
    BatchedMap,
    LinearMap,
    Trace,
    full_precision,
    transformed,
)
from jvpsvd.operators.derivatives.differences import direction
from jvpsvd.operators.differentiate import find_difference
from jvpsvd.operators.function.conversion import convert_weights
from jvpsvd.operators.function.evaluate import prepare
from jvpsvd.operators.function.obstacles import find_obstacles
from jvpsvd.operators.function.restoring import restored

logger = logging.getLogger(__name__)

Map = TypeVar("Map", LinearMap, BatchedMap)


class _Recorded(NamedTuple):
    """The recording of some of the depths; None where they cannot be recorded."""

    depths: tuple[int, ...]
    trace: Trace | None


class _EvaluatedOnce:
    """Each of several depths at a point, at which all of them are evaluated when one is."""

    def __init__(self, maps: Callable[..., tuple[Tensor, ...]]) -> None:
        self._maps = maps
        self._values: list[tuple[Tensor, tuple[Tensor, ...]]] = []

    def __call__(self, depth: int, z: Tensor) -> Tensor:
        for point, values in self._values:
            if torch.equal(point, z):
                return values[depth]
        try:
            values = self._maps(z)
        except Exception:  # behind this depth, it may be
            return self._maps(z, [depth])[0]
        self._values.append((z, values))
        return values[depth]


class Derivatives:
    """The derivatives of a network to several depths.

    Args:
        module: The network, in evaluation mode.
        example: An input of the kind of all later ones.
        layers: The depths.
        since: The depth to start from; None: the input.
        wrt: The argument to start from, where the input has several.
        dtype: What points and weights are converted to; None to leave them. Inputs are given in the
            dtype of the network.

    >>> derivatives = Derivatives(nn.Linear(3, 2), torch.zeros(1, 3), ["output"])
    >>> (J,) = derivatives.at(torch.ones(1, 3), "first input")
    >>> J.value.shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        module: nn.Module,
        example: Any,
        layers: Sequence[str],
        since: str | None = None,
        wrt: str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._layers = tuple(layers)
        self._maps, self._dtype = layer_maps(module, example, layers, since, wrt), dtype
        self._run: Callable[..., tuple[Tensor, ...]] = convert_weights(self._maps, dtype)
        self._told: set[int] = set()
        """Depths of which a line in the log says that products differ from the network itself."""
        self._begin()

    def _begin(self) -> None:
        """Begin with recordings for what the present input holds fixed."""
        self._input = tree_map_only(Tensor, torch.clone, self._maps.input)
        """The input whose fixed part, such as its mask, the recordings hold."""
        self._kind: tuple[Any, ...] | None = None
        """Shape, dtype and device of the points that the recordings take."""
        self._recordings: list[_Recorded] = []
        """Made at the first point: of all depths together, or of each where that fails."""
        self._compared: set[int] = set()
        """Depths whose products were compared with differences of the network at an input."""
        self._obstacles: bool | None = None
        """Whether the network holds what may hide a part of its derivative; None: not known."""

    def at(self, x: Any, name: str) -> tuple[LinearMap | JvpsvdError, ...]:
        """Return the derivative to each depth at an input of this name, or why there is none."""
        z = self._maps.start(x)
        z = z.to(self._dtype or z.dtype)
        if not self._serves(x, z):
            self._maps.refuse_bypass()
            self._begin()
        with full_precision():
            here = self._record(z)
            found: list[LinearMap | JvpsvdError] = []
            for index in range(len(self._recordings)):
                found += self._replay(index, z, name, check=not here)
            if not self._recordings:
                found += (self._transform(depth, z) for depth in range(len(self._layers)))
        return self._without_hidden(found, z)

    def at_many(self, X: Tensor) -> tuple[BatchedMap | JvpsvdError, ...]:
        """Return the derivative to each depth at a batch; nothing if one cannot be recorded."""
        found: list[BatchedMap] = []
        X = X.to(self._dtype or X.dtype)
        with full_precision():
            self._record(X[0])
            if all(one.trace is not None for one in self._recordings):
                for one in self._recordings:
                    found += one.trace.at_many(X) if one.trace is not None else ()
        return self._without_hidden(found, X[0])

    def values(self, x: Any) -> tuple[Tensor, ...]:
        """Return the values of the depths at an input."""
        with torch.no_grad():
            return self._maps(self._maps.start(x))

    def _record(self, z: Tensor) -> bool:
        """Record at the first point, and tell if this is it.

        One depth that cannot be recorded leaves the others alone. Nothing is recorded at a point
        with NaN or infinity, where a recording cannot be verified.
        """
        if self._recordings or not bool(z.isfinite().all()):
            return False
        self._kind, depths = _kind_of(z), tuple(range(len(self._layers)))
        together = self._record_to(depths, z, quiet=len(depths) > 1)
        if together.trace is not None or len(depths) == 1:
            self._recordings = [together]
        else:
            self._recordings = [self._record_to((depth,), z) for depth in depths]
        return True

    def _serves(self, x: Any, z: Tensor) -> bool:
        """Tell whether the recordings are right for points like z and what x holds fixed.

        They are if that is what they hold, or if values and products of the network at z are the
        same with both, to the last bit: those of a recording differ by rounding, and values alone
        may hide what a mask changes in the derivative.
        """
        if self._kind not in (None, _kind_of(z)):
            return False
        fixed = self._maps.fixed
        self._maps.hold_fixed(self._input)
        try:
            if is_same_input(fixed, self._maps.fixed):
                return True
            if all(one.trace is None for one in self._recordings):
                return False
            with full_precision(), restored(self._run, z.device):
                there = self._values_and_products(z)
                self._maps.hold_fixed(x)
                here = self._values_and_products(z)
        except Exception:  # the network may not take z with what another input holds fixed
            return False
        finally:
            self._maps.hold_fixed(x)
        return len(here) == len(there) and all(map(torch.equal, here, there))

    def _values_and_products(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the values of all depths, a product J v of each, and the sum of products J' u."""
        fn = prepare(self._run)
        values, images = jvp(fn, (z,), (direction(z),))[:2]
        pull = vjp(fn, z)[1]
        return (*values, *images, *pull(tuple(map(direction, values))))

    def _record_to(self, depths: tuple[int, ...], z: Tensor, *, quiet: bool = False) -> _Recorded:
        try:
            fn = partial(self._run, only=depths)
            return _Recorded(depths, Trace(fn, z, of_one=lambda index: self._map_to(depths[index])))
        except (TraceError, DerivativeError) as error:
            layers = ", ".join(self._layers[depth] for depth in depths)
            # NaN and infinity are told where they are refused, and are no fault of the recording.
            log = logger.info if quiet or not self._is_finite(depths, z) else logger.warning
            log("%s: %s; it is differentiated by vmap(jvp) and vmap(vjp), slower", layers, error)
            return _Recorded(depths, None)

    def _is_finite(self, depths: Sequence[int], z: Tensor) -> bool:
        try:
            with torch.no_grad():
                values = self._run(z, depths)
        except Exception:  # what it raises is told where derivatives are taken
            return True
        return all(bool(value.isfinite().all()) for value in values)

    def _replay(
        self, index: int, z: Tensor, name: str, *, check: bool
    ) -> Sequence[LinearMap | JvpsvdError]:
        depths, trace = self._recordings[index]
        if trace is not None:
            try:
                return trace.at(z, check=check)
            except (TraceError, DerivativeError) as error:
                logger.warning("%s: %s; using vmap(jvp) and vmap(vjp)", name, error)
        return [self._transform(depth, z) for depth in depths]

    def _transform(self, depth: int, z: Tensor) -> LinearMap | JvpsvdError:
        try:
            return transformed(self._map_to(depth), z)
        except JvpsvdError as error:  # at this depth; others may be well
            return error

    def _map_to(self, depth: int) -> Callable[[Tensor], Tensor]:
        return lambda z: self._run(z, [depth])[0]

    def _without_hidden(
        self, derivatives: Sequence[Map | JvpsvdError], z: Tensor
    ) -> tuple[Map | JvpsvdError, ...]:
        """Put an error where products are seen to differ from those of the network itself.

        What is hidden may lie flat at the first input, so that others are compared, too, where the
        network holds something that may hide a part.
        """
        hidden: dict[int, DerivativeError] = {}
        together = _EvaluatedOnce(self._run)
        for depth, J in enumerate(derivatives):
            if isinstance(J, JvpsvdError):
                continue
            if not bool(J.value.isfinite().all()):
                continue  # nothing can be compared there
            if depth in self._compared and not self._may_hide(depth, z):
                continue
            try:
                with full_precision():
                    evaluate = partial(together, depth)
                    message = find_difference(self._map_to(depth), J, evaluate=evaluate)
                if message is not None and depth not in self._told:
                    logger.warning("%s: %s", self._layers[depth], message)
                    self._told.add(depth)
            except DerivativeError as error:
                hidden[depth] = error
            else:
                self._compared.add(depth)
        return tuple(hidden.get(depth, J) for depth, J in enumerate(derivatives))

    def _may_hide(self, depth: int, z: Tensor) -> bool:
        """Return whether the network holds what may hide a part of its derivative.

        A recording runs the same operations at every point; what is not recorded may run others.
        """
        if self._obstacles is None:
            self._obstacles = bool(find_obstacles(prepare(self._run), z))
        recorded = (one.depths for one in self._recordings if one.trace is not None)
        return self._obstacles or not any(depth in depths for depths in recorded)


def _kind_of(z: Tensor) -> tuple[Any, ...]:
    return z.shape, z.dtype, z.device
