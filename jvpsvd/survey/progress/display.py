"""The progress of a run on the terminal as a bar, or elsewhere as a line per task."""

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
from jvpsvd.survey.store.run_counts import RunCounts


@dataclass(frozen=True)
class RunProgress:
    """How far a running survey is."""

    key: str = ""
    """The photo at work."""
    layer: str = ""
    """The depth at work; empty when the photo is finished."""
    photos_done: int = 0
    photos: int = 0
    """Photos of this run, those finished earlier included; 0 while shards are listed."""
    share_of_photo: float = 0.0
    """How much of the photos at work is done, in photos."""
    rows: Sequence[Row] = ()
    """The rows of photos that have just been finished."""
    shards: int = 0
    """Shards whose samples have been listed."""
    all_shards: int = 0
    """Shards to list; 0 when that is over."""


ReportProgress = Callable[[RunProgress], None]


def ignore_progress(progress: RunProgress) -> None:
    """Show nothing."""


@contextmanager
def show_progress() -> Iterator[ReportProgress]:
    """Yield a function that draws a bar with photo, rate and time left, or prints plain lines."""
    console = Console(stderr=True)
    if console.is_terminal:
        with _bars(console) as report:
            yield report
    else:
        yield _Lines(console)


class _Rate:
    """Counts what was finished, and how fast, since it began."""

    def __init__(self) -> None:
        self.counts = RunCounts()
        self._began: tuple[float, int] | None = None

    def count(self, progress: RunProgress) -> str:
        """Return the rate and the counts so far, in words."""
        if self._began is None:
            self._began = time.monotonic(), progress.photos_done
        self.counts = self.counts.with_rows(progress.rows)
        seconds = time.monotonic() - self._began[0]
        done = progress.photos_done - self._began[1]
        rate = f"{60 * done / seconds:.3g} photos/min, " if done and seconds > 0 else ""
        return f"{rate}{self.counts}"


@contextmanager
def _bars(console: Console) -> Iterator[ReportProgress]:
    bar = Progress(
        TextColumn("{task.fields[doing]}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[at]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    rate, below = _Rate(), Text("", no_wrap=True, overflow="ellipsis")
    task = bar.add_task("survey", total=None, doing="starting", at="")
    with Live(Group(bar, below), console=console):

        def report(progress: RunProgress) -> None:
            if progress.all_shards:
                doing = f"listing shard {progress.shards}/{progress.all_shards}"
                bar.update(task, total=progress.all_shards, completed=progress.shards, doing=doing)
                return
            for row in progress.rows:
                if row.status != "ok":
                    console.print(_failed(row), markup=False, highlight=False)
            text = rate.count(progress)
            if rate.counts != RunCounts():
                below.plain = text
            bar.update(
                task,
                total=progress.photos,
                completed=progress.photos_done + progress.share_of_photo,
                doing=f"photo {min(progress.photos, progress.photos_done + 1)}/{progress.photos}",
                at=f"{progress.key}  {progress.layer}",
            )

        yield report


class _Lines:
    """A line for every finished task."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rate = _Rate()

    def __call__(self, progress: RunProgress) -> None:
        if progress.all_shards:
            return
        counts = self._rate.count(progress)
        if not progress.rows:
            return
        seconds = sum(row.seconds for row in progress.rows)
        good = sum(row.status == "ok" for row in progress.rows)
        text = (
            f"photo {progress.photos_done}/{progress.photos} {progress.key}: "
            f"{good} of {len(progress.rows)} "
            f"depths, {seconds:.1f} s; {counts}"
        )
        failures = [_failed(row) for row in progress.rows if row.status != "ok"][:1]
        self._console.print(
            "\n".join([text, *failures]), markup=False, highlight=False, soft_wrap=True
        )


def _failed(row: Row) -> str:
    return f"{row.shard} {row.key} at {row.layer}: {row.status}: {row.message}"
