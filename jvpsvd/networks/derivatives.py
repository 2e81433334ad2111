"""Derivatives of a network to several depths, recorded once and replayed at every input."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from jvpsvd.errors import DerivativeError, JvpsvdError, TraceError
from jvpsvd.networks.depths import layer_maps
from jvpsvd.operators import (
    BatchedMap,
    LinearMap,
    Trace,
    full_precision,
    tell_difference,
    transformed,
)

logger = logging.getLogger(__name__)

Map = TypeVar("Map", LinearMap, BatchedMap)

# Matrices of a batch that are together no larger than this: beyond, a batch gains nothing.
_BATCH_ENTRIES, _MAX_BATCH = 1 << 24, 32


def choose_batch(inputs: int, outputs: int) -> int:
    """Return how many Jacobians are solved together: many where they are small matrices.

    Args:
        inputs: Columns of a Jacobian.
        outputs: Rows of the largest one.

    >>> choose_batch(3072, 10), choose_batch(150_528, 1000)
    (32, 1)
    """
    fits = _BATCH_ENTRIES // (inputs * outputs)
    return min(_MAX_BATCH, 1 << max(0, fits.bit_length() - 1))


class Derivatives:
    """The derivatives of a network to several depths.

    Args:
        module: The network, in evaluation mode.
        example: An input of the shape, dtype and device of all later ones.
        layers: The depths.

    >>> derivatives = Derivatives(nn.Linear(3, 2), torch.zeros(1, 3), ["output"])
    >>> (J,) = derivatives.at(torch.ones(1, 3), "first input")
    >>> J.value.shape
    torch.Size([1, 2])
    """

    def __init__(self, module: nn.Module, example: Tensor, layers: Sequence[str]) -> None:
        self._layers = tuple(layers)
        self._maps = layer_maps(module, example, layers)
        self._recording: Trace | None = None
        self._may_record = True
        self._hidden: dict[int, DerivativeError] | None = None
        """Depths whose derivative lacks a part at the first input; None before that."""

    def at(self, x: Tensor, name: str) -> tuple[LinearMap | JvpsvdError, ...]:
        """Return the derivative to each depth at an input of this name, or why there is none."""
        with full_precision():
            found: Sequence[LinearMap | JvpsvdError] = ()
            recording = self._record(x)
            if recording is not None:
                try:
                    found = recording.at(x)
                except (TraceError, DerivativeError) as error:
                    logger.warning("%s: %s; using vmap(jvp) and vmap(vjp)", name, error)
            found = found or [self._transform(depth, x) for depth in range(len(self._layers))]
        return self._without_hidden(found)

    def at_many(self, X: Tensor) -> tuple[BatchedMap | JvpsvdError, ...]:
        """Return the derivative to each depth at a batch; nothing if there is no recording."""
        with full_precision():
            recording = self._record(X[0])
            found = () if recording is None else recording.at_many(X)
        return self._without_hidden(found)

    def values(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the values of the depths at an input."""
        with torch.no_grad():
            return self._maps(x)

    def _record(self, x: Tensor) -> Trace | None:
        """Return the recording, made at the first point; None where there can be none."""
        if self._recording is None and self._may_record:
            try:
                self._recording = Trace(self._maps, x)
            except (TraceError, DerivativeError) as error:
                self._may_record = False
                logger.warning("%s; each depth is differentiated by itself, slower", error)
        return self._recording

    def _transform(self, depth: int, x: Tensor) -> LinearMap | JvpsvdError:
        try:
            return transformed(self._map_to(depth), x)
        except JvpsvdError as error:  # at this depth; others may be well
            return error

    def _map_to(self, depth: int) -> Callable[[Tensor], Tensor]:
        return lambda x: self._maps(x)[depth]

    def _without_hidden(
        self, derivatives: Sequence[Map | JvpsvdError]
    ) -> tuple[Map | JvpsvdError, ...]:
        """Put an error where a derivative lacks a part, as found out at the first input."""
        if self._hidden is None and derivatives:
            self._hidden = self._find_hidden(derivatives)
        hidden = self._hidden or {}
        return tuple(hidden.get(depth, J) for depth, J in enumerate(derivatives))

    def _find_hidden(self, derivatives: Sequence[Map | JvpsvdError]) -> dict[int, DerivativeError]:
        """Return the depths at which products differ from those of the network itself."""
        hidden: dict[int, DerivativeError] = {}
        for depth, J in enumerate(derivatives):
            if isinstance(J, JvpsvdError):
                continue
            try:
                with full_precision():
                    tell_difference(self._map_to(depth), J, name=self._layers[depth])
            except DerivativeError as error:
                hidden[depth] = error
        return hidden
