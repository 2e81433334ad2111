"""Who does the tasks: here, this very process, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from jvpsvd.data import read_photos
from jvpsvd.survey.instrument import Instrument
from jvpsvd.survey.rows import Row
from jvpsvd.survey.task import Task
from jvpsvd.svd import Progress, SVDResult

Observed = tuple[Task, list[Row], list[SVDResult | None]]


def in_process(
    pending: Sequence[Task],
    shards: Sequence[Path],
    instrument: Instrument,
    report: Callable[[Task, int, Progress | None], None],
) -> Iterator[Observed]:
    """Yield every pending task with its rows and results, shard by shard."""
    files = {path.name: path for path in shards}
    for name, group in groupby(pending, key=lambda task: task.sample.shard):
        due = {task.sample.key: task for task in group}
        readable = [task.sample for task in due.values() if not task.sample.problem]
        for sample, photo in read_photos(files[name], readable):
            task = due.pop(sample.key)
            yield _observed(task, photo, instrument, report)
        for task in due.values():
            yield _observed(task, None, instrument, report)


def _observed(
    task: Task,
    photo: bytes | None,
    instrument: Instrument,
    report: Callable[[Task, int, Progress | None], None],
) -> Observed:
    def report_depth(depth: int, look: Progress | None) -> None:
        report(task, depth, look)

    return task, *instrument.observe(task.sample, photo, report_depth)
