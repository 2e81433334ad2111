"""Who does the tasks: this very process, one after another; `ray_engine` is the other answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from jvpsvd.data import Shard
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.work.feed import ahead, jobs
from jvpsvd.survey.work.photo_solver import Found, Instrument
from jvpsvd.svd import Progress

Observed = tuple[Task, Found]

_TASKS_AHEAD = 4


def in_process(
    pending: Sequence[Task],
    shards: Mapping[str, Shard],
    instrument: Instrument,
    report: Callable[[Task, int, Progress | None], None],
) -> Iterator[Observed]:
    """Yield every pending task with its rows and results, shard by shard.

    The next tasks are read and decoded meanwhile.
    """
    decoded = (instrument.decode(task, photos) for task, photos in jobs(pending, shards))
    for job in ahead(decoded, _TASKS_AHEAD):

        def report_depth(depth: int, look: Progress | None, task: Task = job.task) -> None:
            report(task, depth, look)

        yield job.task, instrument.observe(job, report_depth)
