"""Notice parameters and modules that have been replaced since a derivative was taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jvpsvd.operators.function.modules import called_modules, held_by, reached_from
from jvpsvd.operators.function.restoring import modules_with_state


def note_modules(fn: object) -> Callable[[], bool]:
    """Return a function that tells whether fn's modules hold the parameters and parts they do now.

    Buffers do not count: a network may keep a mask or a table of angles for the last shape it saw.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> are_the_same = note_modules(net)
    >>> net[1] = nn.GELU()
    >>> are_the_same()
    False
    """
    modules = modules_with_state(called_modules(fn))
    own: list[dict[str, Any]] = [
        each for module in modules for each in (module._parameters, module._modules) if each
    ]

    def list_addresses() -> list[int]:
        return [id(one) for each in own for one in each.values()]

    # What is held now is kept alive, so that nothing else gets its address.
    before, kept = list_addresses(), [one for each in own for one in each.values()]

    def are_the_same() -> bool:
        if list_addresses() == before:
            return True
        now = [one for each in own for one in each.values()]
        return len(now) == len(kept) and all(map(_is_same, now, kept))

    return are_the_same


def _is_same(one: object, other: object) -> bool:
    """Return whether two parts are one, or modules that hold the same and no weights."""
    if one is other:
        return True
    if not isinstance(one, nn.Module) or type(one) is not type(other):
        return False
    return not one.state_dict() and _hold_the_same(vars(one), vars(other))


def _hold_the_same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    try:
        return bool(ours == theirs)
    except Exception:  # arrays have no single answer, and objects of users may have none
        return False


def list_weights(fn: object) -> dict[str, Tensor]:
    """Return the tensors that fn reads besides its argument, where that can be seen.

    They are the parameters and buffers of the modules that it calls, and what it closes over.

    >>> scale, net = nn.Buffer(), nn.Linear(2, 1)
    >>> [tuple(each.shape) for each in list_weights(lambda x: net(x) * scale).values()]
    [(0,), (1, 2), (1,)]
    """
    found: dict[int, Tensor] = {}
    for each in reached_from(fn):
        if isinstance(each, nn.Module):
            held: list[object] = [*each.parameters(), *each.buffers()]
        else:
            held = held_by(each)
        found |= {id(one): one for one in held if isinstance(one, Tensor)}
    return {str(index): one for index, one in enumerate(found.values())}
