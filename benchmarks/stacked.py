"""Where the wall time of `svds` goes, by parts, without a line in jvpsvd for it.

Named functions of jvpsvd.svd are wrapped while a solve runs. The clock of a part stands while
another part's function runs inside it, so the parts add up: what is in none of them is "rest".
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PARTS = ("products", "orthogonalisation", "projected problem", "vectors", "checks", "rest")
# part: functions, as module:name or module:Class.name
PLACES: dict[str, tuple[str, ...]] = {
    "products": ("benchmarks.metering:Meter.product",),
    "orthogonalisation": (
        "jvpsvd.svd.krylov.factorization:Factorization._extend_left",
        "jvpsvd.svd.krylov.factorization:Factorization._extended",
        "jvpsvd.svd.krylov.factorization:random_columns",
        "jvpsvd.svd.methods.exact:orthonormal_images",
    ),
    "projected problem": (
        "jvpsvd.svd.krylov.factorization:leading_svd",
        "jvpsvd.svd.methods.exact:_by_svd",
        "jvpsvd.svd.methods.exact:_by_gram",
    ),
    "vectors": (
        "jvpsvd.svd.krylov.factorization:Factorization.triplets",
        "jvpsvd.svd.methods.exact:_images",
    ),
    "checks": (
        "jvpsvd.svd.svds:certify",
        "jvpsvd.svd.krylov.factorization:largest_product_norm",
        "jvpsvd.svd.krylov.factorization:check_scale",
        "jvpsvd.svd.methods.exact:largest_product_norm",
        "jvpsvd.svd.methods.exact:check_scale",
        "jvpsvd.svd.methods.exact:residual_norms",
    ),
}


class Clocks:
    """Seconds of each part, each second in one part only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS[:-1], 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def timed(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return `work`, on the clock of this part."""

        @functools.wraps(work)
        def on_the_clock(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._running.append(part)
            try:
                return work(*args, **kwargs)
            finally:
                self._turn()
                self._running.pop()

        return on_the_clock

    def stacked(self, wall: float) -> dict[str, float]:
        """Return the seconds of all parts, which add up to the wall time."""
        return {**self.seconds, "rest": max(0.0, wall - sum(self.seconds.values()))}

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def watched(missing: list[str] | None = None) -> Iterator[Clocks]:
    """Time the parts of whatever is solved inside.

    Args:
        missing: Is given the names that the engine no longer has; their time is in "rest".
    """
    clocks, undo = Clocks(), []
    try:
        for part, places in PLACES.items():
            for place in places:
                found = _owner(place)
                if found is None:
                    if missing is not None:
                        missing.append(place)
                    continue
                owner, name = found
                plain = owner.__dict__[name]
                undo.append((owner, name, plain))
                setattr(owner, name, clocks.timed(part, plain))
        yield clocks
    finally:
        for owner, name, plain in reversed(undo):
            setattr(owner, name, plain)


def _owner(place: str) -> tuple[Any, str] | None:
    module, _, path = place.partition(":")
    *classes, name = path.split(".")
    try:
        owner = functools.reduce(getattr, classes, importlib.import_module(module))
    except (ImportError, AttributeError):
        return None
    return (owner, name) if name in vars(owner) else None
