"""Notice parameters and modules that have been replaced since a derivative was taken."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_

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
    held = [
        (entries, list(entries.values()))
        for module in modules
        for entries in (module._parameters, module._modules)
    ]
    return lambda: all(
        len(now) == len(before) and all(map(is_, now.values(), before)) for now, before in held
    )


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
