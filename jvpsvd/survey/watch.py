"""What a run shows while it works: a bar on a terminal, a line per photo elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jvpsvd.survey.rows import Row


@dataclass(frozen=True)
class Look:
    """One look at a running survey."""

    key: str
    """The photo at work."""
    layer: str
    """The depth at work; empty when the photo is finished."""
    photos_done: int
    photos: int
    """In this run, those finished earlier included."""
    share_of_photo: float
    """How much of the photo at work is done, from 0 to 1."""
    rows: Sequence[Row] = ()
    """The rows of a photo that has just been finished."""


Watch = Callable[[Look], None]


def unwatched(look: Look) -> None:
    """Show nothing."""


@contextmanager
def on_stderr() -> Iterator[Watch]:
    """Yield a watch that draws a bar with photo, depth and time left, or prints plain lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda look: _line(console, look)
        return
    bar = Progress(
        TextColumn("photo {task.fields[photo]}/{task.fields[photos]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[key]}  {task.fields[layer]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        task = bar.add_task("survey", total=None, photo=0, photos="?", key="", layer="")

        def watch(look: Look) -> None:
            for row in look.rows:
                if row.status != "ok":
                    console.print(_failed(row), markup=False, highlight=False)
            bar.update(
                task,
                total=look.photos,
                completed=look.photos_done + look.share_of_photo,
                photo=min(look.photos, look.photos_done + 1),
                photos=look.photos,
                key=look.key,
                layer=look.layer,
            )

        yield watch


def _line(console: Console, look: Look) -> None:
    if not look.rows:
        return
    seconds = sum(row.seconds for row in look.rows)
    good = sum(row.status == "ok" for row in look.rows)
    text = (
        f"photo {look.photos_done}/{look.photos} {look.key}: {good} of {len(look.rows)} depths, "
        f"{seconds:.1f} s"
    )
    failures = [_failed(row) for row in look.rows if row.status != "ok"][:1]
    console.print("\n".join([text, *failures]), markup=False, highlight=False, soft_wrap=True)


def _failed(row: Row) -> str:
    return f"{row.shard} {row.key} at {row.layer}: {row.status}: {row.message}"
