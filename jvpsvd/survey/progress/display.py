"""The progress of a run on the terminal as a bar, or elsewhere as a line per task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from jvpsvd.survey.store.rows import Row, count_unread
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.text_table import count_noun, significant


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
    recording: float | None = None
    """About how many seconds the recording of the network takes, which is under way."""
    one: str = "photo"
    """What one sample is called."""
    stored: Row | None = None
    """The last row of the photo at work that is stored already; None before there is one."""


ReportProgress = Callable[[RunProgress], None]


def ignore_progress(progress: RunProgress) -> None:
    """Show nothing."""


@contextmanager
def show_progress(clock: Callable[[], float] = time.monotonic) -> Iterator[ReportProgress]:
    """Yield a function that draws a bar with photo, rate and time left, or prints plain lines.

    Args:
        clock: Returns seconds.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with _bars(console, Rate(clock)) as report:
            yield report
    else:
        yield _Lines(console, clock)


class Rate:
    """Counts what was finished, and how fast, since the first photo began."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = RunCounts()
        self._clock = clock
        self._began: tuple[float, int] | None = None
        self._unread = 0

    def count(self, progress: RunProgress) -> str:
        """Return the rate and the counts so far, in words."""
        if self._began is None and (progress.layer or progress.rows):
            self._began = self._clock(), progress.photos_done - bool(progress.rows)
        self.counts = self.counts.with_rows(progress.rows)
        self._unread += count_unread(progress.rows)
        seconds, done = self._since(progress)
        one = progress.one
        if done < 1 or seconds <= 0:
            return str(self.counts)
        return f"{significant(60 * done / seconds, 3)} {one}s/min, {self.counts}"

    def left(self, progress: RunProgress) -> str:
        """Return how long the rest takes, in words; empty before a photo has been finished.

        >>> times = iter([0.0, 0.0, 60.0, 60.0])
        >>> rate = Rate(lambda: next(times))
        >>> _ = rate.count(RunProgress("a", "output", photos=4))
        >>> _ = rate.count(RunProgress("a", photos_done=1, photos=4))
        >>> rate.left(RunProgress("a", photos_done=1, photos=4))
        '0:03:00 left'
        """
        seconds, done = self._since(progress)
        if done < 1 or seconds <= 0:
            return ""
        done += progress.share_of_photo
        missing = progress.photos - progress.photos_done - progress.share_of_photo
        return f"{timedelta(seconds=round(max(0.0, missing) * seconds / done))} left"

    def _since(self, progress: RunProgress) -> tuple[float, float]:
        """Return the seconds since the first photo began, and how many were finished in them."""
        if self._began is None:
            return 0.0, 0.0
        return self._clock() - self._began[0], progress.photos_done - self._began[1] - self._unread


@contextmanager
def _bars(console: Console, rate: Rate) -> Iterator[ReportProgress]:
    bar = Progress(
        TextColumn("{task.fields[doing]}"),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=console,
    )
    # Lines of their own, which are broken where they are too long: no name is cut.
    at, below = Text("", overflow="fold"), Text("", overflow="fold")
    task = bar.add_task("survey", total=None, doing="starting", left="")
    lines = Group(bar, at, below)
    # While it is drawn the cursor stands in an empty line. Behind a full one, the "^C" that a
    # terminal echoes would break it, and the next drawing would begin a line too low.
    with Live(Group(lines, Text("")), console=console) as live:

        def report(progress: RunProgress) -> None:
            if progress.all_shards:
                doing = f"listing shard {progress.shards}/{progress.all_shards}"
                bar.update(task, total=progress.all_shards, completed=progress.shards, doing=doing)
                return
            for line in _failed_photos(progress.rows):
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            text = rate.count(progress)
            if rate.counts != RunCounts():
                below.plain = text
            bar.update(
                task,
                total=progress.photos,
                completed=progress.photos_done + progress.share_of_photo,
                doing=f"{progress.one} {min(progress.photos, progress.photos_done + 1)}/"
                f"{progress.photos}",
                left=rate.left(progress),
            )
            at.plain = _describe_work(progress)

        try:
            yield report
        finally:
            live.update(lines)


# Seconds without a line after which one is printed for a depth of the photo at work.
_QUIET_SECONDS = 10.0


class _Lines:
    """A line for every finished task, and for depths of one that takes long."""

    def __init__(self, console: Console, clock: Callable[[], float]) -> None:
        self._console, self._clock = console, clock
        self._rate = Rate(clock)
        self._printed = clock()
        self._stored: Row | None = None

    def __call__(self, progress: RunProgress) -> None:
        if progress.all_shards:
            return
        counts = self._rate.count(progress)
        if progress.recording is not None:
            self._print(_describe_work(progress))
        elif progress.rows:
            self._print(self._describe_photo(progress, counts), *_failed_photos(progress.rows))
        elif progress.stored is not self._stored:
            self._stored = progress.stored
            if self._stored and self._clock() - self._printed >= _QUIET_SECONDS:
                row, number = self._stored, progress.photos_done + 1
                place = f"{progress.one} {number}/{progress.photos} {row.key} at {row.layer}"
                self._print(f"{place}: {_describe_row(row)}")

    def _describe_photo(self, progress: RunProgress, counts: str) -> str:
        seconds = sum(row.seconds for row in progress.rows)
        good = sum(row.status == "ok" for row in progress.rows)
        photos = len({(row.shard, row.key) for row in progress.rows})
        rows, together = len(progress.rows), count_noun(photos, progress.one)
        done = count_noun(rows, "depth") if photos == 1 else f"{rows} rows of {together}"
        left = self._rate.left(progress)
        return (
            f"{progress.one} {progress.photos_done}/{progress.photos} {progress.key}: "
            f"{good} of {done}, {seconds:.1f} s; {counts}"
        ) + (f"; {left}" if left else "")

    def _print(self, *lines: str) -> None:
        self._console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        self._printed = self._clock()


def _describe_work(progress: RunProgress) -> str:
    """Return what is under way, in words.

    >>> _describe_work(RunProgress("photo7", "_blocks.2"))
    'photo7 at _blocks.2'
    >>> _describe_work(RunProgress(recording=8.3))
    'recording the network (once, about 8 s)'
    """
    if progress.recording is not None:
        return f"recording the network (once, about {progress.recording:.0f} s)"
    place = f"{progress.key} at {progress.layer}" if progress.layer else progress.key
    stored = progress.stored
    if stored is None:
        return place
    return f"{place}; depth {stored.layer} is stored: {_describe_row(stored)}"


def _describe_row(row: Row) -> str:
    """Return what a stored row comes to, in words.

    >>> _describe_row(Row("s", "a", 0, None, "output", "ok", "", converged=5, k=5, seconds=3.42))
    '5 of 5 values certified, 3.4 s'
    """
    if row.status != "ok":
        return row.status
    return f"{row.converged} of {count_noun(row.k, 'value')} certified, {row.seconds:.1f} s"


def _failed_photos(rows: Sequence[Row]) -> list[str]:
    """Return a line for each photo that failed: where it did first, and at how many depths more.

    >>> rows = [Row("s.tar", "a", 0, None, d, "bad-photo", "cut", k=5) for d in ("one", "two")]
    >>> _failed_photos(rows)
    ["s.tar a at 'one' and 1 more depth: bad-photo: cut"]
    """
    failed: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.status != "ok":
            failed.setdefault((row.shard, row.key), []).append(row)
    lines = []
    for (shard, key), of_photo in failed.items():
        first, more = of_photo[0], len(of_photo) - 1
        where = f"'{first.layer}'" + (f" and {count_noun(more, 'more depth')}" if more else "")
        lines.append(f"{shard} {key} at {where}: {first.status}: {first.message}")
    return lines
