"""How far a run is, read from its files alone, while it works or after it died."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jvpsvd.errors import RunError
from jvpsvd.survey.progress.journal import events, journals, lives
from jvpsvd.survey.spec.command import command_for_folder, commands_of_other_shares
from jvpsvd.survey.spec.tasks import make_tasks
from jvpsvd.survey.store.rows import from_table
from jvpsvd.survey.store.run_counts import RunCounts
from jvpsvd.survey.store.store import Store, check_store
from jvpsvd.text_table import count_noun, significant

# The rate is that of the last finished tasks of each process.
_RECENT = 64
_COMMANDS = 8
_MAX_SAMPLES = 1 << 40


@dataclass(frozen=True)
class Process:
    """One process that works, or worked, on a run."""

    name: str
    """When it began, host and process id: the name of its journal."""
    state: str
    """"running", "ended", or how it stopped; "died" if it could not say."""
    photos: int
    """Photos that it finished."""
    per_second: float
    """Photos per second lately."""
    last: datetime | None
    """When it last wrote."""


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    photos: int
    """Photos in the manifest; 0 before there is one."""
    done: int
    """Photos that need no further work."""
    counts: RunCounts
    """Counts over the rows that are there."""
    processes: tuple[Process, ...]
    problem: str = ""
    """Why the manifest that is there cannot be read."""
    commands: tuple[tuple[str, str], ...] = ()
    """What was typed for each process that did not end by itself, and in which folder; none where
    the run was called from Python."""
    one: str = "photo"
    """What one sample is called."""
    begun: int = 0
    """Rows of the first depths of unfinished photos, which are not computed again."""

    @property
    def per_second(self) -> float:
        """Photos per second of the processes that are running."""
        return sum(p.per_second for p in self.processes if p.state == "running")

    @property
    def seconds_left(self) -> float | None:
        """Time until the running processes have done the rest; None where it cannot be said."""
        return (self.photos - self.done) / self.per_second if self.per_second > 0 else None

    @property
    def lives(self) -> bool:
        """Whether a process works on the run."""
        return any(process.state == "running" for process in self.processes)

    def resume_lines(self) -> list[str]:
        """Return how to go on with a run that is not finished and that no process works on."""
        if self.lives or (self.photos and self.done == self.photos):
            return []
        if not self.commands:
            return ["continue: the same survey.Spec, which computes nothing twice"]
        shown, more = self.commands[:_COMMANDS], len(self.commands) - _COMMANDS
        lines = [f"continue: {command}" for command, _ in shown]
        lines += [f"and {more} more, in RUN/log"] if more > 0 else []
        for where in dict.fromkeys(where for _, where in shown):
            there = Path(where).is_dir()
            lines.append(f"in: {where}" if there else f"in place of {where}, which is not here")
        return lines

    def lines(self) -> list[str]:
        """Return the status in words."""
        if self.problem:
            found = [self.problem]
        elif not self.photos:
            found = ["no manifest yet: shards are being listed, or the run never got that far"]
        else:
            share = 100 * self.done / self.photos
            of = count_noun(self.photos, self.one)
            found = [f"{self.done} of {of} done ({share:.0f} %), {self.counts}"]
        if self.begun:
            found.append(f"unfinished {self.one}s: {count_noun(self.begun, 'depth')} stored")
        if self.per_second > 0 and self.seconds_left is not None:
            left = timedelta(seconds=round(self.seconds_left))
            found.append(f"{significant(60 * self.per_second, 3)} {self.one}s/min, {left} left")
        now = datetime.now(UTC)
        for process in self.processes:
            ago = "" if process.last is None else f", last line {_ago(now - process.last)} ago"
            found.append(
                f"{process.name}: {process.state}, {count_noun(process.photos, self.one)}{ago}"
            )
        return found


def status(store: Store) -> Status:
    """Read how far a run is; nothing is written, and what cannot be read does not count.

    Raises:
        ArgumentError: If the store is none.
    """
    check_store(store)
    files = journals(store.folder)
    processes = tuple(_process(file) for file in files)
    how = _commands(files, store.folder), store.identity.sample_word
    try:
        samples = store.samples()
    except RunError as error:
        there = os.path.lexists(store.layout.manifest)
        return Status(0, 0, RunCounts(), processes, str(error) if there else "", *how)
    every = make_tasks(store.identity, samples)
    layers = len(store.identity.layers)
    done = store.finished({task.id: len(task.samples) * layers for task in every})
    counts = RunCounts()
    for piece in store.scan():
        counts = counts.with_rows(from_table(piece.unchanged))
    photos = sum(len(task.samples) for task in every if task.id in done)
    stored = {file.stem for file in store.layout.task_files()} - done
    begun = sum(len(store.first_rows(task)) for task in every if task.id in stored)
    return Status(len(samples), photos, counts, processes, "", *how, begun)


def _commands(files: Sequence[Path], folder: Path) -> tuple[tuple[str, str], ...]:
    """Return what to type for the processes that have not done their share, each once."""
    found: dict[tuple[str, str], bool] = {}
    for file in files:
        lines = events(file)
        ended = bool(lines) and lines[-1].get("event") == "ended"
        for event in lines:
            command, where = event.get("command"), event.get("where")
            if isinstance(command, str) and isinstance(where, str):
                found[command_for_folder(command, where, folder), where] = ended or lives(file)
    stopped = tuple(one for one, over in found.items() if not over)
    if stopped or not found:
        return stopped
    command, where = tuple(found)[-1]
    others = commands_of_other_shares(command, [each for each, _ in found])
    return tuple((each, where) for each in others)


def _process(file: Path) -> Process:
    lines = events(file)
    finished = [event for event in lines if event.get("event") == "finished"]
    last = lines[-1] if lines else {}
    reason = str(last.get("reason", "no reason"))
    if reason.startswith(KeyboardInterrupt.__name__):
        reason = "interrupted"
    ends = {"ended": "ended", "stopped": f"stopped ({reason})"}
    state = "running" if lives(file) else ends.get(str(last.get("event")), "died")
    photos = sum(map(_count, finished))
    recent = finished[-_RECENT:]
    rate = 0.0
    if recent:
        first = lines[0] if len(recent) == len(finished) else recent[0]
        counted = recent if len(recent) == len(finished) else recent[1:]
        began, ended = _time(first), _time(recent[-1])
        if began is not None and ended is not None and ended > began:
            worked = sum(max(0, _count(event) - _count(event, "unread")) for event in counted)
            rate = worked / (ended - began).total_seconds()
    return Process(file.stem, state, photos, rate, _time(last))


def _count(event: dict[str, Any], name: str = "samples") -> int:
    """Return a number of samples of an event; 0 where an old or damaged line has none."""
    count = event.get(name)
    return count if type(count) is int and 0 <= count < _MAX_SAMPLES else 0


def _time(event: dict[str, Any]) -> datetime | None:
    """Return when an event was written; None where a damaged line does not say."""
    try:
        time = datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def _ago(span: timedelta) -> str:
    return str(timedelta(seconds=max(0, round(span.total_seconds()))))
