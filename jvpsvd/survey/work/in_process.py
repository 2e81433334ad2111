"""Who does the tasks: this very process, one after another; `ray_engine` is the other answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from jvpsvd.data import Shard
from jvpsvd.survey.spec.tasks import Task
from jvpsvd.survey.work.feed import jobs, prefetch
from jvpsvd.survey.work.photo_solver import Found, PhotoSolver
from jvpsvd.svd import Progress

Solved = tuple[Task, Found]

_TASKS_AHEAD = 4


def in_process(
    pending: Sequence[Task],
    shards: Mapping[str, Shard],
    solver: PhotoSolver,
    report: Callable[[Task, int, Progress | None], None],
) -> Iterator[Solved]:
    """Yield every pending task with its rows and results, shard by shard.

    The next tasks are read and decoded meanwhile.
    """
    decoded = (solver.decode(task, photos) for task, photos in jobs(pending, shards))
    for job in prefetch(decoded, _TASKS_AHEAD):

        def report_depth(depth: int, progress: Progress | None, task: Task = job.task) -> None:
            report(task, depth, progress)

        yield job.task, solver.solve(job, report_depth)
