"""Derivatives of a network to several depths, recorded once and replayed at every input.

What of an input is held fixed, such as a mask, is a constant of the recording. At another one the
recording goes over to its tensors, if the network calls the same operations there, with the same
numbers, and value and products are those of `torch.func`. Otherwise it is recorded anew, unless the
network itself gives the same with both. The latest recordings are kept: masks may take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from jvpsvd.arguments import listed_names
from jvpsvd.errors import JvpsvdError
from jvpsvd.networks.depths import layer_maps
from jvpsvd.networks.fixed_inputs import TensorsHeldFixed, is_same_function
from jvpsvd.networks.hidden_parts import HiddenParts
from jvpsvd.networks.layer_map import is_same_but_entries, share_an_object
from jvpsvd.networks.recorded_depths import RecordedDepths
from jvpsvd.networks.to_depths import ToDepths
from jvpsvd.operators import BatchedMap, LinearMap, check_network, full_precision
from jvpsvd.operators.function.conversion import convert_weights
from jvpsvd.operators.function.first_call import FirstCall

_MOST_KEPT = 4  # a guess


@dataclass
class _Recorded:
    """What was recorded and compared with what one input holds fixed."""

    input: Any
    recorded: RecordedDepths
    hidden: HiddenParts


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
        self._maps = layer_maps(module, _copied(example), names, since, wrt)
        self._dtype = dtype
        self._first_call.end()
        self._run: ToDepths = convert_weights(self._maps, dtype)
        recorded = RecordedDepths(self._run, names, TensorsHeldFixed(self._maps))
        hidden = HiddenParts(self._run, names)
        self._kept = [_Recorded(self._maps.input, recorded, hidden)]
        """The latest recordings, that in use first."""
        self._went_over = False
        """Whether the latest other input made another function, as masks do and ids mostly not."""

    def at(self, x: Any, name: str) -> tuple[LinearMap | JvpsvdError, ...]:
        """Return the derivative to each depth at an input of this name, or why there is none."""
        z = self._maps.start(_copied(x))
        z = z.to(self._dtype or z.dtype)
        with full_precision():
            now = self._choose(z)
            found = now.recorded.at(z, name)
            self._first_call.tell()
            return now.hidden.put_errors(found, z, now.recorded.indices)

    def at_many(self, X: Tensor) -> tuple[BatchedMap | JvpsvdError, ...]:
        """Return the derivative to each depth at a batch; nothing if one cannot be recorded.

        Where inputs hold something fixed, it is that of the last one.
        """
        X = X.to(self._dtype or X.dtype)
        with full_precision():
            now = self._choose(X[0])
            found = now.recorded.at_many(X)
            self._first_call.tell()
            return now.hidden.put_errors(found, X[0], now.recorded.indices)

    def values(self, x: Any) -> tuple[Tensor, ...]:
        """Return the values of the depths at an input."""
        with torch.no_grad():
            return self._maps(self._maps.start(_copied(x)))

    def _choose(self, z: Tensor) -> _Recorded:
        """Return the recordings that are right for z and what the present input holds fixed.

        Raises:
            ModelError: If a path from that input goes around the depth to start from.
        """
        ways = [self._is_same_function, self._goes_over]
        if self._went_over:
            ways.reverse()
        for is_right in (self._holds_same, *ways):  # the first takes no time
            found = self._find(is_right, z)
            if found is not None:
                return found
        self._maps.refuse_bypass()
        latest = self._kept[0]
        anew = _Recorded(self._maps.input, latest.recorded.anew(), latest.hidden.anew())
        self._put_first(anew)
        return anew

    def _put_first(self, now: _Recorded) -> None:
        others = [each for each in self._kept if each is not now and each.recorded.indices]
        for each in others:
            each.recorded.release()
        self._kept = [now, *others][:_MOST_KEPT]

    def _find(self, is_right: Callable[[_Recorded, Tensor], bool], z: Tensor) -> _Recorded | None:
        for each in self._kept:
            if each.recorded.takes(z) and is_right(each, z):
                self._put_first(each)
                return each
        return None

    def _holds_same(self, each: _Recorded, z: Tensor) -> bool:
        return self._maps.holds_same(each.input)

    def _goes_over(self, each: _Recorded, z: Tensor) -> bool:
        """Let recordings go over to what the present input holds fixed, and tell if they can."""
        alike = is_same_but_entries(self._maps.input, each.input)
        if not (alike and each.recorded.hold(z)):
            return False
        # Another mask may let the network hide what it did not before.
        each.input, each.hidden = self._maps.input, each.hidden.anew()
        self._went_over = True
        return True

    def _is_same_function(self, each: _Recorded, z: Tensor) -> bool:
        # Two evaluations with products are too much work for each of those that are kept.
        in_use = each is self._kept[0] and bool(each.recorded.indices)
        if not in_use or share_an_object(self._maps.input, each.input):
            return False
        if not is_same_function(self._maps, self._run, z, each.input):
            return False
        self._went_over = False
        return True


def _copied(x: Any) -> Any:
    """Return an input with copies of its tensors, which nothing else holds; equal ones stay one."""
    copies: dict[int, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
        return copies[id(tensor)]

    return tree_map_only(Tensor, copied, dict(x) if isinstance(x, Mapping) else x)
