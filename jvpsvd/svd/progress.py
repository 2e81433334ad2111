"""Progress reports of a running solver, and a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jvpsvd.imports import require
from jvpsvd.operators import Products

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Progress:
    """The state of a running solve at one convergence check; for a batch, over all matrices."""

    converged: int
    """Triplets whose predicted residual meets the tolerance."""
    wanted: int
    """k, or B k."""
    worst: float | None
    """Largest predicted residual of the k, relative to s₁; None where the method predicts none."""
    share: float
    """How much of the work is done, from 0 to 1, as far as can be told."""
    products: Products
    """Taken since `svds` was called."""
    seconds_left: float | None = None
    """Predicted time to the end; None if the solver cannot tell."""


Show = Callable[[Progress], bool | None]
"""A function that takes progress, and returns False to stop the solve."""


def predict_seconds_left(began: float, share: float) -> float:
    """Return the time to the end, if the rest takes as long for its share as was taken so far.

    Args:
        began: `time.perf_counter()` at the beginning.
        share: How much of the work is done, above 0.

    >>> round(predict_seconds_left(time.perf_counter() - 10.0, share=0.25))
    30
    """
    return (time.perf_counter() - began) * (1 - share) / share


@contextmanager
def progress_bar(progress: bool | Show, counted: str = "triplets") -> Iterator[Show | None]:
    """Yield the function that shows progress: the caller's, a bar on stderr, or None.

    Args:
        progress: What the caller asked for.
        counted: What `Progress.wanted` is a number of.
    """
    if callable(progress):
        yield progress
    elif progress:
        with _bar(counted) as show:
            yield show
    else:
        yield None


def bar_console() -> Console:
    """Return the console on stderr for a bar of one line.

    In a notebook, rich would ask for ipywidgets. A bar of one line goes without: it is written over
    itself, as on a terminal.
    """
    require("a progress bar", "survey", "rich")
    from rich.console import Console

    if Console().is_jupyter:
        return Console(stderr=True, force_jupyter=False, force_terminal=True, width=100)
    return Console(stderr=True)


@contextmanager
def _bar(counted: str) -> Iterator[Show]:
    require("progress=True", "survey", "rich")
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn(counted),
        BarColumn(),
        TextColumn("{task.fields[converged]}{task.fields[worst]}"),
        TextColumn("{task.fields[products]} products"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=bar_console(),
    )
    with bar:
        task = bar.add_task("svds", total=1.0, converged="", worst="", products=0, left="")

        def show(now: Progress) -> None:
            left = now.seconds_left
            bar.update(
                task,
                completed=now.share,
                converged=f"{now.converged}/{now.wanted}",
                worst="" if now.worst is None else f", worst residual {now.worst:.0e}",
                products=now.products.total,
                left="" if left is None else f"about {left:.0f} s left",
            )

        yield show
