"""List what a forward pass computes: every output of a module, and every result of a function."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from jvpsvd.networks.forward_pass import See, call, forward, watched
from jvpsvd.networks.place_names import Place
from jvpsvd.operators.function.failures import first_line
from jvpsvd.operators.function.modules import describe_module

FUNCTION = "function"


@dataclass(frozen=True)
class Call:
    """A tensor that a forward pass computes."""

    place: Place
    kind: str
    """Class of the module, or "function"."""
    shape: tuple[int, ...]
    duplicate: bool = False
    """Whether another place holds the same tensor, so that this one is not listed."""


def list_calls(
    model: nn.Module, x: Any, *, functions: bool, see: See | None = None
) -> tuple[dict[Place, Call], str | None]:
    """Return the floating tensors that the model computes at x, and what was left out and why.

    Where a module returns what its last function computed, the function's call is the duplicate.
    Each other tensor is shown to `see`, which may return what goes on in its place; x is then given
    to the model itself, not a copy of it.
    """
    if not functions:
        return _list_calls(model, x, None, see), None
    reasons: list[str] = []
    try:
        return _list_calls(model, x, reasons, see), None
    except Exception as error:
        failed = error
    calls = _list_calls(model, x, None, see)  # raises where the model itself fails
    try:
        _list_calls(model, x, reasons, see)
    except Exception:
        return calls, f"{reasons[0]} fails where functions are observed ({first_line(failed)})"
    raise failed  # an error that comes and goes


def _list_calls(
    model: nn.Module, x: Any, failing: list[str] | None, also: See | None
) -> dict[Place, Call]:
    """List the calls, with those of functions if there is a list for the module that fails."""
    calls: dict[Place, Call] = {}
    holders: dict[int, _Holder] = {}

    def see(place: Place, module: nn.Module | None, args: Any, value: Tensor) -> Tensor | None:
        kind = FUNCTION if module is None else type(module).__name__
        found = Call(place, kind, tuple(value.shape))
        held = holders.get(id(value))
        if held is not None and held.holds(value):
            if module is None and held.version is not None:
                # A function that had nothing to do, as `flatten` of a vector.
                calls[place] = replace(found, duplicate=True)
                return None
            if held.place.function and _follows(place, held.place, calls):
                calls[held.place] = replace(calls[held.place], duplicate=True)
        calls[place] = found
        passed = None if also is None else also(place, module, args, value)
        value = value if passed is None else passed
        holders[id(value)] = _Holder(place, weakref.ref(value), _version(value))
        return passed

    with watched(model, see, functions=failing is not None) as mode:
        try:
            if also is None:
                forward(model, x)
            else:
                call(model, x)  # with the very tensors that `also` knows
        except Exception:
            if mode is not None and failing is not None:
                failing.append(describe_module(*(mode.running or [("", model)])[-1]))
            raise
    return calls


def _follows(returned: Place, computed: Place, calls: dict[Place, Call]) -> bool:
    """Return whether a module returns at once what a function in it computed."""
    if returned.module != computed.module:
        return False
    for place in reversed(calls):
        if place == computed:
            break
        function = (place.function, place.number) == (computed.function, computed.number)
        module = (place.function, place.number) == ("", returned.number)
        if place.module != returned.module or not (function or module or calls[place].duplicate):
            return False
    return True


@dataclass(frozen=True)
class _Holder:
    """The last place where a tensor was seen, and its state there."""

    place: Place
    tensor: weakref.ref[Tensor]
    version: int | None

    def holds(self, value: Tensor) -> bool:
        """Return whether this is the tensor that was seen, and unchanged as far as is known."""
        return self.tensor() is value and self.version == _version(value)


def _version(value: Tensor) -> int | None:
    """Return how often the tensor has been changed in place, where torch counts that."""
    return None if value.is_inference() else value._version
