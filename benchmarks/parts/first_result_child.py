"""The child of the part "first_result": `jvpsvd run` of one tree, with a clock, to its first row.

PYTHONPATH=TREE python -P first_result_child.py ANSWER.json BEGAN ARGUMENT ...

It is run as a file, and imports nothing of this tree, so that it serves older trees as well. What a
phase takes is without the imports and the phases inside it. Imports count for the outermost package
that is not jvpsvd: what torch imports of sympy is torch's, but for torch._dynamo, which has a line
of its own.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import resource
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

PHASES = {
    ("jvpsvd.survey.work.run", "plan_run"): "planning",
    ("jvpsvd.survey.spec.plan", "load_model"): "loading the model",
    ("jvpsvd.survey.spec.plan", "demo_shards"): "packing the photos",
    ("jvpsvd.survey.spec.plan", "choose_depths_after"): "listing depths",
    ("jvpsvd.survey.spec.plan", "probe_network"): "probing the network",
    ("jvpsvd.networks.derivatives", "Derivatives.at"): "recording",
    ("jvpsvd.survey.work.photo_solver", "svds"): "solves",
    ("jvpsvd.survey.store.store", "Store.commit"): "storing the row",
    ("jvpsvd.survey.store.store", "Store.commit_first"): "storing the row",
}
"""By (module, name in it) what its calls are counted as. These names are in every tree, but for
`commit_first`: older ones store no row before all depths of its photo are done."""
FIRST_SOLVE, FIRST_ROWS = "svds", ("Store.commit", "Store.commit_first")
_OWN_LINE = "torch._dynamo"


class Clock:
    """Seconds by phase, wall and CPU, each without what began inside it."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.seconds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.marks: dict[str, list[float]] = {}
        """Seconds since the start, wall and CPU, at the end of what has a mark."""
        self._stack = ["before the first phase"]
        self._main = threading.main_thread()
        # The interpreter's own start, and what it took before this line.
        self._last = (began, 0.0)
        self._count("python")

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the body as this phase; in another thread than the first, as nothing."""
        if threading.current_thread() is not self._main:
            yield
            return
        self._count(self._stack[-1])
        self._stack.append(name)
        try:
            yield
        finally:
            self._count(self._stack.pop())

    @property
    def imported(self) -> str | None:
        """The package outside jvpsvd that is being imported, if one is."""
        found = [name for name in self._stack if name.startswith("import ")]
        return found[-1] if found and found[-1] != "import jvpsvd" else None

    def mark(self, name: str) -> None:
        """Note the time at which something ended first."""
        self.marks.setdefault(name, [time.perf_counter() - self.began, _cpu()])

    def _count(self, name: str) -> None:
        now = time.perf_counter(), _cpu()
        for index in range(2):
            self.seconds[name][index] += now[index] - self._last[index]
        self._last = now


class TimedImports:
    """A finder that has modules found as ever, and counts what finding and executing them takes."""

    def __init__(self, clock: Clock, executed: Callable[[ModuleType], None]) -> None:
        self._clock, self._executed = clock, executed

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the spec that `sys.path` has, with a loader that is timed."""
        phase = self._phase(name)
        with self._clock.phase(phase):
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            for method in ("create_module", "exec_module"):
                setattr(loader, method, self._timed(phase, getattr(loader, method)))
        return spec

    def _phase(self, name: str) -> str:
        package = name.partition(".")[0]
        if name == _OWN_LINE or self._clock.imported == f"import {_OWN_LINE}":
            return f"import {_OWN_LINE}"
        return self._clock.imported or f"import {package}"

    def _timed(self, phase: str, method: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(argument: Any) -> Any:
            with self._clock.phase(phase):
                found = method(argument)
            if isinstance(argument, ModuleType):
                self._executed(argument)
            return found

        return timed


def instrument(module: ModuleType, clock: Clock, end: Callable[[], None]) -> None:
    """Let calls of the functions of `PHASES` that a module holds be counted."""
    for (where, name), phase in PHASES.items():
        owner: Any = module
        *classes, last = name.split(".")
        for each in classes:
            owner = getattr(owner, each, None)
        if where == module.__name__ and hasattr(owner, last):
            setattr(owner, last, _counted(getattr(owner, last), name, phase, clock, end))


def _counted(
    function: Callable[..., Any], name: str, phase: str, clock: Clock, end: Callable[[], None]
) -> Callable[..., Any]:
    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if name == FIRST_SOLVE:
            clock.mark("first solve begins")
        with clock.phase(phase):
            found = function(*args, **kwargs)
        if name == FIRST_SOLVE:
            clock.mark("first solve ends")
        if name in FIRST_ROWS:
            clock.mark("first row")
            end()
        return found

    return counted


def main(arguments: Sequence[str]) -> None:
    answer, began, *command = arguments
    clock = Clock(float(began))

    def end() -> None:
        Path(answer).write_text(json.dumps({"seconds": clock.seconds, "marks": clock.marks}))
        os._exit(0)  # the rest of the run is another question

    sys.meta_path.insert(
        0,
        TimedImports(clock, lambda module: instrument(module, clock, end)),  # type: ignore
    )
    sys.argv = ["jvpsvd", *command]
    from jvpsvd.__main__ import main as run

    run()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
