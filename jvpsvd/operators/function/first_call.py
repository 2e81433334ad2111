"""Whether a function keeps something of its first call, which later calls take for a constant."""

from __future__ import annotations

import logging
from typing import Any

from jvpsvd.operators.function.dependencies import FunctionState
from jvpsvd.operators.function.modules import attribute_of

logger = logging.getLogger(__name__)


class FirstCall:
    """What a function may read, before its first evaluation and after it.

    A counter changes in every evaluation, a cache in the first one alone. If the cache was computed
    from x, the derivative lacks that part, and no later value shows it. Attributes of modules are
    put back after each evaluation, so that they show no change.

    Args:
        roots: The function, and its further arguments.

    >>> fn = (lambda kept: lambda x: kept.setdefault("h", x))({})
    >>> first = FirstCall([fn])
    >>> _ = fn(1.0)
    >>> first.end()
    >>> _ = fn(2.0)
    >>> first.kept()
    'fn.kept.h'
    """

    def __init__(self, roots: list[Any]) -> None:
        self._roots = roots
        self._before: FunctionState | None = FunctionState(roots)
        self._changed: str | None = None
        self._after: FunctionState | None = None

    def end(self) -> None:
        """Take note of what the first evaluation has changed; later ones are not the first."""
        if self._before is not None:
            self._changed, self._before = self._before.change(), None
            self._after = None if self._changed is None else FunctionState(self._roots)

    def kept(self) -> str | None:
        """Return what has changed in the first evaluation and not since, None if nothing has."""
        settled = self._after is not None and self._after.change() is None
        return self._changed if settled else None

    def tell(self) -> None:
        """Say in the log, once, what has changed in the first evaluation and not since."""
        kept, self._after = self.kept(), None
        if kept is not None:
            logger.warning(
                "fn keeps something of its first call (in %s): if that was computed from x, the "
                "derivative takes it for a constant, and is wrong; compute it in each call",
                kept,
            )


def first_call_of(fn: object, roots: list[Any]) -> FirstCall:
    """Return the first call of a function: that which a `LayerMap` was made by, or one to come.

    >>> first_call_of(abs, [abs]).kept() is None
    True
    """
    made_by = attribute_of(fn, "first_call")
    return made_by if isinstance(made_by, FirstCall) else FirstCall(roots)
