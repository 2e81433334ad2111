"""What a run shows while it works: a bar on a terminal, a line per task elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from jvpsvd.survey.store.rows import Row
from jvpsvd.survey.store.run_counts import Tally


@dataclass(frozen=True)
class Look:
    """One look at a running survey."""

    key: str = ""
    """The photo at work."""
    layer: str = ""
    """The depth at work; empty when the photo is finished."""
    photos_done: int = 0
    photos: int = 0
    """In this run, those finished earlier included; 0 while shards are listed."""
    share_of_photo: float = 0.0
    """How much of the photos at work is done, in photos."""
    rows: Sequence[Row] = ()
    """The rows of photos that have just been finished."""
    shards: int = 0
    """Shards whose samples have been listed."""
    all_shards: int = 0
    """Shards to list; 0 when that is over."""


Watch = Callable[[Look], None]


def unwatched(look: Look) -> None:
    """Show nothing."""


@contextmanager
def on_stderr() -> Iterator[Watch]:
    """Yield a watch that draws a bar with photo, rate and time left, or prints plain lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bars(console) as watch:
            yield watch
    else:
        yield _Lines(console)


class _Tallied:
    """Counts what was finished, and how fast, since the watch began."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._began: tuple[float, int] | None = None

    def count(self, look: Look) -> str:
        """Return what is known after a look, in words."""
        if self._began is None:
            self._began = time.monotonic(), look.photos_done
        self.tally = self.tally.with_rows(look.rows)
        seconds = time.monotonic() - self._began[0]
        done = look.photos_done - self._began[1]
        rate = f"{60 * done / seconds:.3g} photos/min, " if done and seconds > 0 else ""
        return f"{rate}{self.tally}"


@contextmanager
def _bars(console: Console) -> Iterator[Watch]:
    bar = Progress(
        TextColumn("{task.fields[doing]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[at]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    tallied, below = _Tallied(), Text("", no_wrap=True, overflow="ellipsis")
    task = bar.add_task("survey", total=None, doing="starting", at="")
    with Live(Group(bar, below), console=console):

        def watch(look: Look) -> None:
            if look.all_shards:
                doing = f"listing shard {look.shards}/{look.all_shards}"
                bar.update(task, total=look.all_shards, completed=look.shards, doing=doing)
                return
            for row in look.rows:
                if row.status != "ok":
                    console.print(_failed(row), markup=False, highlight=False)
            known = tallied.count(look)
            if tallied.tally != Tally():
                below.plain = known
            bar.update(
                task,
                total=look.photos,
                completed=look.photos_done + look.share_of_photo,
                doing=f"photo {min(look.photos, look.photos_done + 1)}/{look.photos}",
                at=f"{look.key}  {look.layer}",
            )

        yield watch


class _Lines:
    """A line for every finished task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tallied = _Tallied()

    def __call__(self, look: Look) -> None:
        if look.all_shards:
            return
        known = self._tallied.count(look)
        if not look.rows:
            return
        seconds = sum(row.seconds for row in look.rows)
        good = sum(row.status == "ok" for row in look.rows)
        text = (
            f"photo {look.photos_done}/{look.photos} {look.key}: {good} of {len(look.rows)} "
            f"depths, {seconds:.1f} s; {known}"
        )
        failures = [_failed(row) for row in look.rows if row.status != "ok"][:1]
        self._console.print(
            "\n".join([text, *failures]), markup=False, highlight=False, soft_wrap=True
        )


def _failed(row: Row) -> str:
    return f"{row.shard} {row.key} at {row.layer}: {row.status}: {row.message}"
