"""Progress reports of a running solver, and a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jvpsvd.operators import Products


@dataclass(frozen=True)
class Progress:
    """The state of a running solve at one convergence check; for a batch, over all matrices."""

    converged: int
    """Triplets whose predicted residual meets the tolerance."""
    wanted: int
    """k; for a batch of B matrices, B k."""
    worst: float
    """Largest predicted residual of the k, relative to s₁."""
    products: Products
    """Products taken so far."""
    seconds_left: float | None = None
    """Predicted time to the end; None if the solver cannot tell."""


Show = Callable[[Progress], bool | None]
"""A function that takes progress, and returns False to stop the solve."""


@contextmanager
def shown(progress: bool | Show) -> Iterator[Show | None]:
    """Yield the function that shows progress: the caller's, a bar on stderr, or None."""
    if callable(progress):
        yield progress
    elif progress:
        with _bar() as show:
            yield show
    else:
        yield None


@contextmanager
def _bar() -> Iterator[Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    bar = Bar(
        TextColumn("triplets"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("worst residual {task.fields[worst]:.0e}, {task.fields[products]} products"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("svds", total=None, worst=1.0, products=0, left="")

        def show(now: Progress) -> None:
            left = now.seconds_left
            bar.update(
                task,
                completed=now.converged,
                total=now.wanted,
                worst=now.worst,
                products=now.products.total,
                left="" if left is None else f"about {left:.0f} s left",
            )

        yield show
