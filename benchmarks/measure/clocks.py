"""Where the wall time of `svds` goes, by parts, without any code for it in jvpsvd.

Named functions of jvpsvd.svd are wrapped while a solve runs. The clock of a part stops while a
function of another part runs inside it, so that the parts add up; what remains is "rest".
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PARTS = ("products", "orthogonalisation", "projected problem", "vectors", "checks", "rest")
# The functions of each part, as module:name or module:Class.name.
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "products": ("benchmarks.solvers.metering:Meter.product",),
    "orthogonalisation": (
        "jvpsvd.svd.factorization:Factorization._extend_left",
        "jvpsvd.svd.factorization:Factorization._extended",
        "jvpsvd.svd.factorization:random_columns",
        "jvpsvd.svd.exact:orthonormal_images",
    ),
    "projected problem": (
        "jvpsvd.svd.factorization:leading_svd",
        "jvpsvd.svd.exact:_by_svd",
        "jvpsvd.svd.exact:_by_gram",
    ),
    "vectors": ("jvpsvd.svd.factorization:Factorization.triplets", "jvpsvd.svd.exact:_images"),
    "checks": (
        "jvpsvd.svd.svds:certify",
        "jvpsvd.svd.factorization:longest_product",
        "jvpsvd.svd.factorization:check_scale",
        "jvpsvd.svd.exact:longest_product",
        "jvpsvd.svd.exact:check_scale",
        "jvpsvd.svd.exact:residual_lengths",
    ),
}


class Clocks:
    """The seconds of each part; no second counts twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS[:-1], 0.0)
        self._running: list[str] = []
        self._since = 0.0

    def time(self, part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does `work` on the clock of this part."""

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

    def seconds_by_part(self, wall: float) -> dict[str, float]:
        """Return the seconds of all parts, which add up to the wall time."""
        return {**self.seconds, "rest": max(0.0, wall - sum(self.seconds.values()))}

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def time_parts(missing: list[str] | None = None) -> Iterator[Clocks]:
    """Time the parts of whatever is solved inside.

    Args:
        missing: Gets the names that the engine no longer has; their time is in "rest".
    """
    clocks, undo = Clocks(), []
    try:
        for part, names in FUNCTIONS.items():
            for full_name in names:
                found = _find_owner(full_name)
                if found is None:
                    if missing is not None:
                        missing.append(full_name)
                    continue
                owner, name = found
                plain = owner.__dict__[name]
                undo.append((owner, name, plain))
                setattr(owner, name, clocks.time(part, plain))
        yield clocks
    finally:
        for owner, name, plain in reversed(undo):
            setattr(owner, name, plain)


def _find_owner(full_name: str) -> tuple[Any, str] | None:
    module, _, path = full_name.partition(":")
    *classes, name = path.split(".")
    try:
        owner = functools.reduce(getattr, classes, importlib.import_module(module))
    except (ImportError, AttributeError):
        return None
    return (owner, name) if name in vars(owner) else None
