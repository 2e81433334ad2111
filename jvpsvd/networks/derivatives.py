"""Derivatives of a network to several depths, recorded once and replayed at every input.

What of an input is held fixed, such as a mask, is a constant of the recording. So each value of it
has a recording of its own, unless the network itself gives the same with both, as it mostly does
with other token ids behind their embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from jvpsvd.arguments import listed_names
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks.depths import layer_maps
from jvpsvd.networks.fixed_inputs import is_same_function
from jvpsvd.networks.hidden_parts import HiddenParts
from jvpsvd.networks.recorded_depths import RecordedDepths
from jvpsvd.networks.to_depths import ToDepths
from jvpsvd.operators import BatchedMap, LinearMap, check_network, full_precision
from jvpsvd.operators.function.conversion import convert_weights
from jvpsvd.operators.function.first_call import FirstCall


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
        names = listed_names("layers", layers)
        check_network(module)
        self._first_call = FirstCall([module])
        self._maps, self._dtype = layer_maps(module, example, names, since, wrt), dtype
        self._first_call.end()
        self._run: ToDepths = convert_weights(self._maps, dtype)
        self._recorded = RecordedDepths(self._run, names)
        self._hidden = HiddenParts(self._run, names)
        self._begin()

    def at(self, x: Any, name: str) -> tuple[LinearMap | JvpsvdError, ...]:
        """Return the derivative to each depth at an input of this name, or why there is none."""
        z = self._maps.start(x)
        z = z.to(self._dtype or z.dtype)
        with full_precision():
            self._begin_anew_if_needed(z)
            found = self._recorded.at(z, name)
            self._first_call.tell()
            return self._hidden.put_errors(found, z, self._recorded.indices)

    def at_many(self, X: Tensor) -> tuple[BatchedMap | JvpsvdError, ...]:
        """Return the derivative to each depth at a batch; nothing if one cannot be recorded.

        Where inputs hold something fixed, it is that of the last one.
        """
        X = X.to(self._dtype or X.dtype)
        with full_precision():
            self._begin_anew_if_needed(X[0])
            found = self._recorded.at_many(X)
            self._first_call.tell()
            return self._hidden.put_errors(found, X[0], self._recorded.indices)

    def values(self, x: Any) -> tuple[Tensor, ...]:
        """Return the values of the depths at an input."""
        with torch.no_grad():
            return self._maps(self._maps.start(x))

    def _begin_anew_if_needed(self, z: Tensor) -> None:
        """Begin anew where recordings are not right for z and what the present input holds fixed.

        Raises:
            ModelError: If a path from that input goes around the depth to start from.
        """
        if self._recorded.takes(z):
            if self._maps.holds_same(self._input):
                return
            if self._recorded.indices and is_same_function(self._maps, self._run, z, self._input):
                return
        self._maps.refuse_bypass()
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing recorded or compared, for what the present input holds fixed."""
        self._input = tree_map_only(Tensor, torch.clone, self._maps.input)
        """The input whose fixed part, such as its mask, the recordings hold."""
        self._recorded.forget()
        self._hidden.forget()
